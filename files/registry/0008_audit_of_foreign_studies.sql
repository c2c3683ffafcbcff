-- A row of the access log may be of several clinics, or of all ('*'), and yet name one study: somebody of them looked at the
-- record of that study. It is told to the auditors of that study's clinic and to no others, who would learn its UID.

CREATE OR REPLACE FUNCTION registry.read_access_log(
    study text, who text, since timestamptz, before bigint, max_rows integer)
RETURNS TABLE (entry_id bigint, at timestamptz, username text, subject text, client text, address text, action text,
               clinic_id text, study_uid text, detail text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = ''
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    setting text := coalesce(current_setting('registry.clinics', true), '');
    clinics text[] := string_to_array(setting, ',');
BEGIN
    RETURN QUERY
    SELECT l.entry_id, l.at, l.username, l.subject, l.client, host(l.address), l.action,
        CASE WHEN setting = '*' OR l.clinic_id = '*' THEN l.clinic_id
             ELSE (SELECT string_agg(one, ',' ORDER BY one) FROM unnest(string_to_array(l.clinic_id, ',')) AS one
                   WHERE one = ANY (clinics)) END,
        l.study_uid, l.detail
    FROM registry.access_log l
    WHERE (read_access_log.study IS NULL OR l.study_uid = read_access_log.study)
        AND (who IS NULL OR l.username = who)
        AND (since IS NULL OR l.at >= since)
        AND (before IS NULL OR l.entry_id < before)
        AND (setting = '*'
             OR (clinics <> '{}'
                 AND (l.clinic_id = '*' OR string_to_array(l.clinic_id, ',') && clinics)
                 -- A row of one clinic is that clinic's for good, whoever gets the study later.
                 AND (l.study_uid IS NULL OR l.clinic_id = ANY (clinics)
                      OR EXISTS (SELECT FROM registry.study s
                                 WHERE s.study_uid = l.study_uid AND s.clinic_id = ANY (clinics)))))
    ORDER BY l.entry_id DESC
    LIMIT max_rows;
END $$;
