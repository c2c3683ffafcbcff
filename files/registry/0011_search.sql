-- What the list shows finds it when it is typed in again, in every script; series and instances can be searched too.
-- Columns made by a function that changes must be made anew: one pass over the studies. 100,000 take 29 s on two busy cores.

DROP FUNCTION registry.search_studies(jsonb, integer, integer);
DROP INDEX registry.study_newest, registry.study_words;
ALTER TABLE registry.study
    DROP COLUMN study_date, DROP COLUMN study_time, DROP COLUMN modalities, DROP COLUMN referring_physician,
    DROP COLUMN study_description, DROP COLUMN patient_name, DROP COLUMN patient_birth_date, DROP COLUMN patient_sex;
DROP FUNCTION registry.name_of(jsonb, text), registry.moment_of(jsonb, text), registry.texts_of(jsonb, text);


-- From DICOM JSON (PS3.18 F.2) to what can be matched ---------------------------------------------------------------

-- Beside case and accents: Cyrillic letters that a Russian keyboard has not, to those that are typed for them; sigma at
-- the end of a word; spaces as a page shows them. Й stays a letter of its own, as for Unicode's collation; ё is unaccented.
CREATE OR REPLACE FUNCTION registry.fold(value text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN btrim(regexp_replace(
    translate(lower(registry.unaccent('registry.unaccent'::regdictionary, normalize(value, NFKC)) COLLATE "und-x-icu"),
              'әіңғүұқөһҳҷҗӣӯўґєїёѓќς', 'аингуукоххчжиуугеиегкσ'),
    '\s+', ' ', 'g'));

-- A name as words, as whatever punctuation a list shows between them. The wildcards are none.
CREATE FUNCTION registry.words(value text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN btrim(regexp_replace(registry.fold(value), '[][ !"#$%&''()+,./:;<=>@\\^_`{|}~-]+', ' ', 'g'));

-- The components of one group of a name: what is around them and empty at the end is no part of them (PS3.5 6.2).
CREATE FUNCTION registry.components(value text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN rtrim(regexp_replace(registry.fold(value), ' *\^ *', '^', 'g'), '^');

-- PN, each group of components (alphabetic, ideographic, phonetic) twice: '=family^given^' for patterns that name the
-- components, '= family given ' for those that do not. Two columns, so that no pattern begins in one and ends in the other.
CREATE FUNCTION registry.groups_of(attributes jsonb, tag text) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT left(value, 324) FROM jsonb_each_text(CASE jsonb_typeof(attributes #> ARRAY[tag, 'Value', '0'])
        WHEN 'object' THEN attributes #> ARRAY[tag, 'Value', '0'] ELSE '{}' END) ORDER BY key
$$;
CREATE FUNCTION registry.name_of(attributes jsonb, tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(string_agg('=' || registry.components(value) || '^', ''), '')
        FROM registry.groups_of(attributes, tag) AS value);
CREATE FUNCTION registry.words_of(attributes jsonb, tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(string_agg('= ' || registry.words(value) || ' ', ''), '')
        FROM registry.groups_of(attributes, tag) AS value);

-- DA and TM without the separators that old files carry (2024.01.31, 10:15:00). Texts of digits sort as dates do, and times
-- do once they all have seconds: 2230 is 223000 (PS3.4 C.2.2.2.1.3).
CREATE FUNCTION registry.date_of(attributes jsonb, tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(registry.text_of(attributes, tag), '[^0-9]', '', 'g');
CREATE FUNCTION registry.time_of(attributes jsonb, tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(rpad(digits, greatest(6, length(digits)), '0'), '')
        FROM nullif(regexp_replace(registry.text_of(attributes, tag), '[^0-9.]', '', 'g'), '') AS digits);

-- CS is capitals by definition, and not always in files.
CREATE FUNCTION registry.codes_of(attributes jsonb, tag text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT upper(btrim(left(value, 256)))
             FROM jsonb_array_elements_text(CASE jsonb_typeof(attributes #> ARRAY[tag, 'Value'])
                                            WHEN 'array' THEN attributes #> ARRAY[tag, 'Value'] ELSE '[]' END) AS value);

-- IS by its meaning: 1 is 01.
CREATE FUNCTION registry.number_of(attributes jsonb, tag text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN registry.text_of(attributes, tag) ~ '^[+-]?[0-9]{1,18}$' THEN registry.text_of(attributes, tag)::bigint END;


-- Tables ------------------------------------------------------------------------------------------------------------

ALTER TABLE registry.study
    ADD COLUMN study_date text COLLATE "C" GENERATED ALWAYS AS (registry.date_of(attributes, '00080020')) STORED,
    ADD COLUMN study_time text COLLATE "C" GENERATED ALWAYS AS (registry.time_of(attributes, '00080030')) STORED,
    ADD COLUMN modalities text[] COLLATE "C" GENERATED ALWAYS AS (registry.codes_of(attributes, '00080061')) STORED,
    ADD COLUMN referring_physician text COLLATE "C" GENERATED ALWAYS AS (registry.name_of(attributes, '00080090')) STORED,
    ADD COLUMN referring_physician_words text COLLATE "C"
        GENERATED ALWAYS AS (registry.words_of(attributes, '00080090')) STORED,
    ADD COLUMN study_description text COLLATE "C"
        GENERATED ALWAYS AS (registry.fold(registry.text_of(attributes, '00081030'))) STORED,
    ADD COLUMN patient_name text COLLATE "C" GENERATED ALWAYS AS (registry.name_of(attributes, '00100010')) STORED,
    ADD COLUMN patient_name_words text COLLATE "C" GENERATED ALWAYS AS (registry.words_of(attributes, '00100010')) STORED,
    ADD COLUMN patient_birth_date text COLLATE "C" GENERATED ALWAYS AS (registry.date_of(attributes, '00100030')) STORED,
    ADD COLUMN patient_sex text[] COLLATE "C" GENERATED ALWAYS AS (registry.codes_of(attributes, '00100040')) STORED,
    ADD COLUMN accession_number_folded text COLLATE "C"
        GENERATED ALWAYS AS (registry.fold(registry.text_of(attributes, '00080050'))) STORED,
    ADD COLUMN patient_id_folded text COLLATE "C"
        GENERATED ALWAYS AS (registry.fold(registry.text_of(attributes, '00100020'))) STORED,
    ADD COLUMN study_id_folded text COLLATE "C"
        GENERATED ALWAYS AS (registry.fold(registry.text_of(attributes, '00200010'))) STORED;
CREATE INDEX study_newest ON registry.study (clinic_id, study_date DESC, study_time DESC, study_uid);
CREATE INDEX study_words ON registry.study USING gin (
    clinic_id,
    modalities,
    patient_name registry.gin_trgm_ops,
    patient_name_words registry.gin_trgm_ops,
    patient_id_folded registry.gin_trgm_ops,
    accession_number_folded registry.gin_trgm_ops,
    study_id_folded registry.gin_trgm_ops,
    study_description registry.gin_trgm_ops,
    referring_physician registry.gin_trgm_ops,
    referring_physician_words registry.gin_trgm_ops);

CREATE TABLE registry.series (
    study_uid text COLLATE "C" NOT NULL REFERENCES registry.study ON DELETE CASCADE,
    series_uid text COLLATE "C" NOT NULL,
    attributes jsonb NOT NULL CHECK (jsonb_typeof(attributes) = 'object'),

    modality text[] COLLATE "C" GENERATED ALWAYS AS (registry.codes_of(attributes, '00080060')) STORED,
    series_number bigint GENERATED ALWAYS AS (registry.number_of(attributes, '00200011')) STORED,
    step_date text COLLATE "C" GENERATED ALWAYS AS (registry.date_of(attributes, '00400244')) STORED,
    step_time text COLLATE "C" GENERATED ALWAYS AS (registry.time_of(attributes, '00400245')) STORED,
    PRIMARY KEY (study_uid, series_uid)
);
CREATE INDEX series_uid ON registry.series (series_uid);

CREATE TABLE registry.instance (
    study_uid text COLLATE "C" NOT NULL,
    series_uid text COLLATE "C" NOT NULL,
    instance_uid text COLLATE "C" NOT NULL,
    attributes jsonb NOT NULL CHECK (jsonb_typeof(attributes) = 'object'),

    sop_class text COLLATE "C" GENERATED ALWAYS AS (registry.text_of(attributes, '00080016')) STORED,
    instance_number bigint GENERATED ALWAYS AS (registry.number_of(attributes, '00200013')) STORED,
    PRIMARY KEY (study_uid, series_uid, instance_uid),
    FOREIGN KEY (study_uid, series_uid) REFERENCES registry.series ON DELETE CASCADE
);
CREATE INDEX instance_uid ON registry.instance (instance_uid);

-- Nobody reads them but through the functions below.
ALTER TABLE registry.series ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE registry.instance ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON registry.series TO registry_owner USING (true) WITH CHECK (true);
CREATE POLICY owner ON registry.instance TO registry_owner USING (true) WITH CHECK (true);


-- Importer ----------------------------------------------------------------------------------------------------------

-- All series and instances that the study has now: arrays of DICOM JSON objects. In one statement with record_study, so
-- that nobody sees the one without the other. What did not change is not written.
CREATE FUNCTION registry.record_contents(study_uid text, clinic_id text, series jsonb, instances jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    PERFORM FROM registry.study s
    WHERE s.study_uid = record_contents.study_uid AND s.clinic_id = record_contents.clinic_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('clinic %s has not claimed study %s', record_contents.clinic_id, record_contents.study_uid);
    END IF;

    DELETE FROM registry.series r
    WHERE r.study_uid = record_contents.study_uid
        AND r.series_uid NOT IN (SELECT registry.text_of(item, '0020000E') FROM jsonb_array_elements(series) AS item);
    INSERT INTO registry.series AS r (study_uid, series_uid, attributes)
    SELECT DISTINCT ON (registry.text_of(item, '0020000E'))
        record_contents.study_uid, registry.text_of(item, '0020000E'), item
    FROM jsonb_array_elements(series) AS item
    WHERE registry.text_of(item, '0020000E') ~ '^[0-9.]{1,64}$'
    ON CONFLICT ON CONSTRAINT series_pkey DO UPDATE SET attributes = EXCLUDED.attributes
        WHERE r.attributes <> EXCLUDED.attributes;

    DELETE FROM registry.instance i
    WHERE i.study_uid = record_contents.study_uid
        AND (i.series_uid, i.instance_uid) NOT IN (
            SELECT registry.text_of(item, '0020000E'), registry.text_of(item, '00080018')
            FROM jsonb_array_elements(instances) AS item);
    INSERT INTO registry.instance AS i (study_uid, series_uid, instance_uid, attributes)
    SELECT DISTINCT ON (r.series_uid, registry.text_of(item, '00080018'))
        record_contents.study_uid, r.series_uid, registry.text_of(item, '00080018'), item - '0020000E'
    FROM jsonb_array_elements(instances) AS item
    JOIN registry.series r
        ON r.study_uid = record_contents.study_uid AND r.series_uid = registry.text_of(item, '0020000E')
    WHERE registry.text_of(item, '00080018') ~ '^[0-9.]{1,64}$'
    ON CONFLICT ON CONSTRAINT instance_pkey DO UPDATE SET attributes = EXCLUDED.attributes
        WHERE i.attributes <> EXCLUDED.attributes;
END $$;


-- Gateway -----------------------------------------------------------------------------------------------------------
-- The search (QIDO-RS, PS3.18 10.6) is put together as text, so that PostgreSQL plans with what is asked and with nothing
-- else. What a client sent goes in as a literal that format's %L quotes, and in no other way.

-- An end of lower precision (an hour, a minute) reaches to its own end: '~' sorts after every digit.
CREATE FUNCTION registry.range_condition(place text, value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN format('%s BETWEEN %L AND %L', place,
              coalesce(nullif(split_part(value, '-', 1), ''), '0'),
              split_part(value, '-', CASE WHEN value LIKE '%-%' THEN 2 ELSE 1 END) || '~');

-- Dates and times as one moment where both are the same form of range (PS3.4 C.2.2.2.5.4, which PS3.18 8.3.4.1.1 asks for).
CREATE FUNCTION registry.moment_condition(date_place text, dates text, time_place text, times text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN dates LIKE '%-%' AND regexp_replace(dates, '[0-9.]+', '0', 'g') = regexp_replace(times, '[0-9.]+', '0', 'g')
    -- The days by themselves, too: they have an index.
    THEN registry.range_condition(date_place, dates) || ' AND ' || registry.range_condition(
        date_place || ' || ' || time_place,
        CASE WHEN dates LIKE '-%' THEN '-' || substr(dates, 2) || substr(times, 2)
             ELSE concat(split_part(dates, '-', 1), split_part(times, '-', 1), '-',
                         split_part(dates, '-', 2), split_part(times, '-', 2)) END)
    ELSE concat_ws(' AND ', CASE WHEN dates <> '' THEN registry.range_condition(date_place, dates) END,
                            CASE WHEN times <> '' THEN registry.range_condition(time_place, times) END)
    END;

CREATE FUNCTION registry.text_condition(place text, value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN format('%s LIKE %L', place, registry.like_pattern(registry.fold(value)));

-- A value with ^ names components, and those left out at the end match anything. One without is what a list shows: whole
-- words in their order, wherever they stand (PS3.4 C.2.2.2.1.1: insensitive to position); with wildcards, from the
-- beginning of a group, or a part of it. What has no letter is taken as it stands. Of a value with several groups, each must
-- be found.
CREATE FUNCTION registry.name_condition(place text, value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(string_agg(CASE
        WHEN one LIKE '%^%' OR registry.words(one) !~ '[^*? ]'
            THEN format('%s LIKE %L', place, '%=' || registry.like_pattern(registry.components(one)) || '^%')
        WHEN one ~ '[*?]' THEN format('%s_words LIKE %L', place,
            CASE WHEN registry.words(one) LIKE '*%' THEN '' ELSE '%= ' END
            || registry.like_pattern(registry.words(one))
            || CASE WHEN registry.words(one) LIKE '%*' THEN '' ELSE ' %' END)
        ELSE format('%s_words LIKE %L', place, '% ' || registry.like_pattern(registry.words(one)) || ' %')
        END, ' AND '), 'true')
    FROM unnest(string_to_array(value, '=')) AS one WHERE one <> ''
$$;

CREATE FUNCTION registry.code_condition(place text, codes jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN bool_or(one ~ '[*?]')
        THEN format('EXISTS (SELECT FROM unnest(%s) AS code WHERE code LIKE ANY (%L))',
                    place, array_agg(registry.like_pattern(upper(one))))
        ELSE format('%s && %L', place, array_agg(upper(one))) END
    FROM jsonb_array_elements_text(codes) AS one
$$;

CREATE FUNCTION registry.uid_condition(place text, uids jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN format('%s = ANY (%L)', place, ARRAY(SELECT jsonb_array_elements_text(uids)));

-- Identifiers: as written, and without regard to case and accents when they hold a wildcard or nobody has one written so.
-- Who asks for a patient's other studies must not get another patient's.
CREATE FUNCTION registry.id_condition(place text, value text, clinics text[]) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    folded text := format('%s_folded = %L', place, registry.fold(left(value, 256)));
    exact text := format('%s = %L AND %s', place, left(value, 256), folded);
    known boolean;
BEGIN
    IF value ~ '[*?]' THEN
        RETURN registry.text_condition(place || '_folded', value);
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM registry.study s WHERE s.clinic_id = ANY ($1) AND s.revision > 0 AND %s)', exact)
        INTO known USING clinics;
    RETURN CASE WHEN known THEN exact ELSE folded END;
END $$;

CREATE FUNCTION registry.search(level text, filter jsonb, max_rows integer, skip integer)
RETURNS TABLE (study_uid text, attributes jsonb)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    setting text := coalesce(current_setting('registry.clinics', true), '');
    clinics text[] := CASE setting WHEN '*' THEN ARRAY(SELECT clinic_id FROM registry.clinic)
                                   ELSE ARRAY(SELECT DISTINCT unnest(string_to_array(setting, ','))) END;
    tag text;
    value text;
    condition text;
    conditions text[] := '{true}';
    sources text := 'registry.study s';
    attributes text := 's.attributes';
    columns text := 's.study_uid, s.study_date, s.study_time';
    sorting text := 'study_date DESC, study_time DESC, study_uid';
BEGIN
    FOR tag, value IN SELECT * FROM jsonb_each_text(filter) LOOP
        condition := CASE
            WHEN tag = '0020000D' THEN registry.uid_condition('s.study_uid', filter -> tag)
            WHEN tag = '00080061' THEN registry.code_condition('s.modalities', filter -> tag)
            WHEN tag = '00100040' THEN registry.code_condition('s.patient_sex', jsonb_build_array(value))
            WHEN tag = '00080020' THEN
                registry.moment_condition('s.study_date', value, 's.study_time', coalesce(filter ->> '00080030', ''))
            WHEN tag = '00080030' AND filter ? '00080020' THEN 'true'
            WHEN tag = '00080030' THEN registry.range_condition('s.study_time', value)
            WHEN tag = '00100030' THEN registry.range_condition('s.patient_birth_date', value)
            WHEN tag = '00080050' THEN registry.id_condition('s.accession_number', value, clinics)
            WHEN tag = '00100020' THEN registry.id_condition('s.patient_id', value, clinics)
            WHEN tag = '00200010' THEN registry.id_condition('s.study_id', value, clinics)
            WHEN tag = '00081030' THEN registry.text_condition('s.study_description', value)
            WHEN tag = '00100010' THEN registry.name_condition('s.patient_name', value)
            WHEN tag = '00080090' THEN registry.name_condition('s.referring_physician', value)
            WHEN level = 'study' THEN NULL
            WHEN tag = '0020000E' THEN registry.uid_condition('r.series_uid', filter -> tag)
            WHEN tag = '00080060' THEN registry.code_condition('r.modality', filter -> tag)
            WHEN tag = '00200011' THEN format('r.series_number = %L', value)
            WHEN tag = '00400244' THEN
                registry.moment_condition('r.step_date', value, 'r.step_time', coalesce(filter ->> '00400245', ''))
            WHEN tag = '00400245' AND filter ? '00400244' THEN 'true'
            WHEN tag = '00400245' THEN registry.range_condition('r.step_time', value)
            WHEN level = 'series' THEN NULL
            WHEN tag = '00080018' THEN registry.uid_condition('i.instance_uid', filter -> tag)
            WHEN tag = '00080016' THEN registry.uid_condition('i.sop_class', filter -> tag)
            WHEN tag = '00200013' THEN format('i.instance_number = %L', value)
            END;
        IF condition IS NULL THEN
            RAISE invalid_parameter_value USING MESSAGE = format('%s cannot be searched by %s', level, tag);
        END IF;
        conditions := conditions || condition;
    END LOOP;
    IF level IN ('series', 'instance') THEN
        sources := sources || ' JOIN registry.series r ON r.study_uid = s.study_uid';
        attributes := attributes || ' || r.attributes';
        columns := columns || ', r.series_number, r.series_uid';
        sorting := sorting || ', series_number, series_uid';
    END IF;
    IF level = 'instance' THEN
        sources := sources || ' JOIN registry.instance i ON i.study_uid = r.study_uid AND i.series_uid = r.series_uid';
        attributes := attributes || ' || i.attributes';
        columns := columns || ', i.instance_number, i.instance_uid';
        sorting := sorting || ', instance_number, instance_uid';
    END IF;
    -- Each clinic's newest, and of those the newest: every clinic's come out of its index in their order.
    RETURN QUERY EXECUTE format(
        'SELECT found.study_uid, found.attributes FROM unnest($1) AS of_clinic (id) CROSS JOIN LATERAL ('
        '    SELECT %s, %s AS attributes FROM %s WHERE s.clinic_id = of_clinic.id AND s.revision > 0 AND %s'
        '    ORDER BY %s LIMIT $2 + $3) AS found ORDER BY %s LIMIT $2 OFFSET $3',
        columns, attributes, sources, array_to_string(conditions, ' AND '), sorting, sorting)
    USING clinics, max_rows, skip;
END $$;

-- Newest first, of the clinics in the setting registry.clinics.
--   filter   {tag: value} as in the query string, wildcards and ranges included; arrays for UIDs and codes
-- A tag that cannot be matched is an error, never ignored. They run as the owner because LIKE is not leakproof: under the
-- gateway's own policy no wildcard could use an index.
CREATE FUNCTION registry.search_studies(filter jsonb, max_rows integer, skip integer)
RETURNS TABLE (study_uid text, attributes jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' SET jit = off
AS $$ SELECT * FROM registry.search('study', filter, max_rows, skip) $$;

-- Each with the attributes of its study, and an instance with its series' too.
CREATE FUNCTION registry.search_series(filter jsonb, max_rows integer, skip integer)
RETURNS TABLE (study_uid text, attributes jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' SET jit = off
AS $$ SELECT * FROM registry.search('series', filter, max_rows, skip) $$;
CREATE FUNCTION registry.search_instances(filter jsonb, max_rows integer, skip integer)
RETURNS TABLE (study_uid text, attributes jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' SET jit = off
AS $$ SELECT * FROM registry.search('instance', filter, max_rows, skip) $$;

REVOKE EXECUTE ON FUNCTION registry.words, registry.components, registry.groups_of, registry.name_of, registry.words_of,
    registry.date_of, registry.time_of, registry.codes_of, registry.number_of, registry.range_condition,
    registry.moment_condition, registry.text_condition, registry.name_condition, registry.code_condition,
    registry.uid_condition, registry.id_condition, registry.search, registry.record_contents, registry.search_studies,
    registry.search_series, registry.search_instances FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.record_contents TO registry_importer;
GRANT EXECUTE ON FUNCTION registry.search_studies, registry.search_series, registry.search_instances TO registry_gateway;
