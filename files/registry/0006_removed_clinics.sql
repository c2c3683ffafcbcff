-- A clinic that was removed. Its row stays: studies that were kept need an owner, and nobody shall get its id, and with it
-- those studies, without being asked. Services no longer hear of it; what the importer had taken before, it still ends.

ALTER TABLE registry.clinic ADD COLUMN removed_at timestamptz;

CREATE OR REPLACE FUNCTION registry.list_clinics() RETURNS TABLE (clinic_id text, name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$ SELECT c.clinic_id, c.name FROM registry.clinic c WHERE c.removed_at IS NULL ORDER BY c.clinic_id $$;

-- Claimed studies count too: who takes the clinic over would get them.
CREATE FUNCTION registry.removed_clinics()
RETURNS TABLE (clinic_id text, name text, removed_at text, studies bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$
    SELECT c.clinic_id, c.name, to_char(c.removed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), count(s.study_uid)
    FROM registry.clinic c LEFT JOIN registry.study s ON s.clinic_id = c.clinic_id
    WHERE c.removed_at IS NOT NULL
    GROUP BY c.clinic_id ORDER BY c.clinic_id
$$;

CREATE FUNCTION registry.remove_clinic(clinic_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    UPDATE registry.clinic c SET removed_at = now() WHERE c.clinic_id = remove_clinic.clinic_id AND c.removed_at IS NULL;
    RETURN FOUND;
END $$;

CREATE FUNCTION registry.readmit_clinic(clinic_id text, name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    UPDATE registry.clinic c SET removed_at = NULL, name = readmit_clinic.name
    WHERE c.clinic_id = readmit_clinic.clinic_id AND c.removed_at IS NOT NULL;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION registry.upsert_clinic(clinic_id text, name text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    known registry.clinic;
BEGIN
    INSERT INTO registry.clinic (clinic_id, name) VALUES (upsert_clinic.clinic_id, upsert_clinic.name)
    ON CONFLICT ON CONSTRAINT clinic_pkey DO NOTHING;
    IF FOUND THEN
        RETURN 'created';
    END IF;
    SELECT * INTO known FROM registry.clinic c WHERE c.clinic_id = upsert_clinic.clinic_id FOR UPDATE;
    IF known.removed_at IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format('clinic %s was removed', upsert_clinic.clinic_id);
    ELSIF known.name = upsert_clinic.name THEN
        RETURN 'unchanged';
    END IF;
    UPDATE registry.clinic c SET name = upsert_clinic.name WHERE c.clinic_id = upsert_clinic.clinic_id;
    RETURN 'updated';
END $$;

CREATE FUNCTION registry.studies_of_clinic(clinic_id text) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$ SELECT s.study_uid FROM registry.study s WHERE s.clinic_id = studies_of_clinic.clinic_id ORDER BY s.study_uid $$;

-- The two ends of deleting a study of a removed clinic, and of no other: that it was ordered goes into the access log before
-- its images go; the row goes after them. No user is called like this: names have no parentheses.
CREATE FUNCTION registry.log_erasure(study_uid text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    INSERT INTO registry.access_log (at, username, subject, client, action, clinic_id, study_uid, detail)
    SELECT clock_timestamp(), '(operator)', '', 'remove-clinic', 'delete', s.clinic_id, s.study_uid, 'the clinic was removed'
    FROM registry.study s JOIN registry.clinic c USING (clinic_id)
    WHERE s.study_uid = log_erasure.study_uid AND c.removed_at IS NOT NULL;
    RETURN FOUND;
END $$;

CREATE FUNCTION registry.forget_erased_study(study_uid text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    DELETE FROM registry.study s USING registry.clinic c
    WHERE s.study_uid = forget_erased_study.study_uid AND c.clinic_id = s.clinic_id AND c.removed_at IS NOT NULL;
    IF FOUND THEN
        PERFORM pg_notify('registry_study', forget_erased_study.study_uid);
        RETURN true;
    END IF;
    RETURN false;
END $$;

REVOKE EXECUTE ON FUNCTION registry.removed_clinics, registry.remove_clinic, registry.readmit_clinic, registry.studies_of_clinic,
    registry.log_erasure, registry.forget_erased_study FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.removed_clinics, registry.remove_clinic, registry.readmit_clinic, registry.studies_of_clinic,
    registry.log_erasure, registry.forget_erased_study TO registry_operator;
