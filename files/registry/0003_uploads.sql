-- Who uploaded to which study. Only the importer knows the study of an upload, because only the file names it; it may write
-- these rows and no others, and only of studies that are the clinic's.

CREATE FUNCTION registry.log_upload(study_uid text, clinic_id text, caller jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM registry.study s
                   WHERE s.study_uid = log_upload.study_uid AND s.clinic_id = log_upload.clinic_id) THEN
        RAISE EXCEPTION 'study % is not of clinic %', log_upload.study_uid, log_upload.clinic_id
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO registry.access_log (at, username, subject, client, address, action, clinic_id, study_uid)
    VALUES (clock_timestamp(), coalesce(caller ->> 'username', ''), coalesce(caller ->> 'subject', ''),
            coalesce(caller ->> 'client', ''), nullif(caller ->> 'address', '')::inet, 'upload',
            log_upload.clinic_id, log_upload.study_uid);
END $$;

REVOKE EXECUTE ON FUNCTION registry.log_upload FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.log_upload TO registry_importer;
