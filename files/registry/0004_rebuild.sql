-- What the registry shows of a study, for the command that compares it with Orthanc.

CREATE FUNCTION registry.recorded_study(study_uid text)
RETURNS TABLE (clinic_id text, revision bigint, attributes jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$ SELECT s.clinic_id, s.revision, s.attributes FROM registry.study s WHERE s.study_uid = recorded_study.study_uid $$;

REVOKE EXECUTE ON FUNCTION registry.recorded_study FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.recorded_study TO registry_importer;
