"""The reasons why a request gets no answer. nginx tells them to the caller in its own words."""

from __future__ import annotations


class RefusedError(Exception):
    """The request is not one that the platform knows: the caller gets the one 404."""

    told = ""
    """What a caller who may ask is told instead, in nginx's words."""


class NoClinicError(RefusedError):
    """The upload could be for several clinics, or for none. The caller is told to name one."""

    told = "clinic"


class RepeatedFrameError(RefusedError):
    """One request names a frame twice. PS3.18 does not know that, and the answer could be larger than any image."""

    told = "frames"


class UndisplayableError(RefusedError):
    """The importer has found that frames of this image cannot be displayed; `told` ends in the code of the reason."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.told = f"display-{code}"


class AcceptError(RefusedError):
    """The client accepts no form that this route has, or its Accept cannot be read."""

    told = "accept"
