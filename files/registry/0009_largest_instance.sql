-- How large a study's largest instance is, as far as is known: what the proxy counts before Orthanc sends it whole.

ALTER TABLE registry.study ADD COLUMN largest bigint NOT NULL DEFAULT 0;  -- bytes; 0: not known

DROP FUNCTION registry.record_study(text, text, jsonb);
CREATE FUNCTION registry.record_study(study_uid text, clinic_id text, attributes jsonb, largest bigint DEFAULT 0)
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
    SET revision = greatest(s.revision + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
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

-- Runs with the caller's rights: what it finds, row-level security let through.
DROP FUNCTION registry.locate_study(text);
CREATE FUNCTION registry.locate_study(study_uid text) RETURNS TABLE (clinic_id text, revision bigint, largest bigint)
LANGUAGE sql STABLE
AS $$ SELECT s.clinic_id, s.revision, s.largest FROM registry.study s WHERE s.study_uid = $1 $$;

REVOKE EXECUTE ON FUNCTION registry.record_study, registry.locate_study FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.record_study TO registry_importer;
GRANT EXECUTE ON FUNCTION registry.locate_study TO registry_gateway;
