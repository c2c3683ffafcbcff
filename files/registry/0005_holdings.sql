-- How much each clinic has, for the administrator's list of clinics: numbers and a time, nothing of a patient.

CREATE FUNCTION registry.count_studies() RETURNS TABLE (clinic_id text, studies bigint, last_received text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$
    SELECT c.clinic_id, count(s.study_uid), to_char(max(s.recorded_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    FROM registry.clinic c LEFT JOIN registry.study s ON s.clinic_id = c.clinic_id AND s.revision > 0
    GROUP BY c.clinic_id ORDER BY c.clinic_id
$$;

REVOKE EXECUTE ON FUNCTION registry.count_studies FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.count_studies TO registry_operator;
