-- What may not rest on one server's clock or on one gateway's memory.

-- A revision is part of the key of nginx's cache, so that none may ever come back. The clock keeps it ahead of what a
-- restored backup has forgotten. The sequence keeps it ahead of a server whose clock was fast: a standby that took over
-- has the sequence's value with the last commit that anybody was told of.
CREATE SEQUENCE registry.revisions AS bigint;
SELECT setval('registry.revisions', greatest(1, (SELECT max(revision) FROM registry.study)));

CREATE FUNCTION registry.next_revision() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    following bigint := nextval('registry.revisions');
    now_microseconds bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
BEGIN
    IF now_microseconds > following THEN
        RETURN setval('registry.revisions', now_microseconds);
    END IF;
    RETURN following;
END $$;
REVOKE EXECUTE ON FUNCTION registry.next_revision FROM PUBLIC;

CREATE OR REPLACE FUNCTION registry.record_study(
    study_uid text, clinic_id text, attributes jsonb, largest bigint DEFAULT 0)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    recorded_revision bigint;
    recorded_uid text := registry.text_of(record_study.attributes, '0020000D');
BEGIN
    IF recorded_uid NOT IN ('', record_study.study_uid) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the attributes are of study %s, not of %s', recorded_uid, record_study.study_uid);
    END IF;
    UPDATE registry.study s
    SET revision = greatest(s.revision + 1, registry.next_revision()),
        recorded_at = now(),
        -- A delivery knows its own instances alone.
        largest = greatest(s.largest, record_study.largest),
        -- RetrieveURL is the gateway's to give. OHIF's list crashes on ModalitiesInStudy without a value.
        attributes = record_study.attributes - '00081190'
            - CASE WHEN registry.text_of(record_study.attributes, '00080061') = '' THEN '00080061' ELSE '' END
            || jsonb_build_object('0020000D', jsonb_build_object('vr', 'UI', 'Value', jsonb_build_array(s.study_uid)))
    WHERE s.study_uid = record_study.study_uid AND s.clinic_id = record_study.clinic_id
    RETURNING s.revision INTO recorded_revision;
    IF NOT FOUND THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('clinic %s has not claimed study %s', record_study.clinic_id, record_study.study_uid);
    END IF;
    PERFORM pg_notify('registry_study', record_study.study_uid);
    RETURN recorded_revision;
END $$;

-- What one session does with one study for one purpose is one row. Each gateway remembers what it has written; the key
-- tells the same of all of them, and of a statement that is sent again because its answer was lost.
ALTER TABLE registry.access_log ADD COLUMN view_key uuid;  -- null: of an earlier release, or no view
CREATE UNIQUE INDEX access_log_view ON registry.access_log (view_key);

CREATE OR REPLACE FUNCTION registry.log_access(entries jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = ''
AS $$
    INSERT INTO registry.access_log
        (at, username, subject, client, address, action, clinic_id, study_uid, detail, view_key)
    SELECT at, username, subject, client, address, action, clinic_id, study_uid, detail, view_key
    FROM jsonb_to_recordset(entries) AS entry (at timestamptz, username text, subject text, client text, address inet,
                                               action text, clinic_id text, study_uid text, detail text, view_key uuid)
    ON CONFLICT (view_key) DO NOTHING
$$;
