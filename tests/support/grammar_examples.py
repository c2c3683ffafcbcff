"""Ids of clinics and names of users that are good or bad, for every copy of their grammars."""

CLINIC_IDS = ("ab", "denscan-central", "0a", "9-", "a" * 63)
NO_CLINIC_IDS = (
    *("", "a", "a" * 64, "-ab", "Ab", "aB", "a_b", "a.b", "a b", " ab", "ab ", "ab\n", "\nab", "a\nb", "ab\x00"),
    *("a/b", "../ab", "a,b", "ab*", "*", "äb", "\u0430\u0431", "a\u0660", "ab'", "ab$"),
)
USERNAMES = ("abc", "a.bekova", "a@example.org", "0-_", "a" * 255)
NO_USERNAMES = (
    *(
        "",
        "ab",
        "a" * 256,
        ".abc",
        "Abc",
        "aBc",
        "a b c",
        " abc",
        "abc ",
        "abc\n",
        "\nabc",
        "a/bc",
        "a,bc",
        "\u0430\u0431\u0432",
    ),
    *("abc\x00", "a\u0660c", "abc'", "a:bc"),
)
