-- Reading the access log: who opened which study, for auditors in the browser and for the operator on the host.
-- The gateway's role still reads no row of the table itself; it executes the function below, which shows what concerns
-- the clinics in the transaction's setting. Rows can be added and read, never changed.

ALTER TABLE registry.access_log DROP CONSTRAINT access_log_action_check;
ALTER TABLE registry.access_log ADD CONSTRAINT access_log_action_check
    CHECK (action IN ('list', 'view', 'download', 'upload', 'change', 'delete', 'audit'));

CREATE INDEX access_log_study ON registry.access_log (study_uid, entry_id);
CREATE INDEX access_log_username ON registry.access_log (username, entry_id);
CREATE INDEX access_log_at ON registry.access_log (at);

-- Newest first: entries of the study, of the user, not older than `since`, and before the entry `before` (the last one of
-- the page before); each null asks for all. A row names one clinic, several (a list over all of a user's) or '*' (an
-- administrator's). To an auditor it shows those of the setting registry.clinics; a row that names none of them stays
-- hidden, and so does what an administrator did beside every clinic.
CREATE FUNCTION registry.read_access_log(
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
             OR (clinics <> '{}' AND (l.clinic_id = '*' OR string_to_array(l.clinic_id, ',') && clinics)))
    ORDER BY l.entry_id DESC
    LIMIT max_rows;
END $$;

GRANT EXECUTE ON FUNCTION registry.read_access_log TO registry_gateway;
