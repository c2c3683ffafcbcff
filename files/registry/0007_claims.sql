-- Claims that no image came for, what is tried on a study on record whoever owns it, and texts that no index stumbles over.

-- Before the first byte is sent to Orthanc, hence before it is known whose the study is: what is tried on another clinic's
-- study is on record too, under the clinic that tried. `detail` is empty for the beginning.
DROP FUNCTION registry.log_upload(text, text, jsonb);
CREATE FUNCTION registry.log_upload(study_uid text, clinic_id text, caller jsonb, detail text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    PERFORM FROM registry.clinic c WHERE c.clinic_id = log_upload.clinic_id;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('clinic %s is not in the registry', log_upload.clinic_id);
    END IF;
    INSERT INTO registry.access_log (at, username, subject, client, address, action, clinic_id, study_uid, detail)
    VALUES (clock_timestamp(), coalesce(caller ->> 'username', ''), coalesce(caller ->> 'subject', ''),
            coalesce(caller ->> 'client', ''), nullif(caller ->> 'address', '')::inet, 'upload',
            log_upload.clinic_id, log_upload.study_uid, log_upload.detail);
END $$;

-- Only what shows nothing, and only for the clinic that claimed it.
CREATE FUNCTION registry.release_claim(study_uid text, clinic_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    DELETE FROM registry.study s
    WHERE s.study_uid = release_claim.study_uid AND s.clinic_id = release_claim.clinic_id AND s.revision = 0;
    RETURN FOUND;
END $$;

CREATE FUNCTION registry.claims() RETURNS TABLE (clinic_id text, study_uid text, since text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$
    SELECT s.clinic_id, s.study_uid, to_char(s.claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    FROM registry.study s WHERE s.revision = 0 ORDER BY s.claimed_at, s.study_uid
$$;

REVOKE EXECUTE ON FUNCTION registry.log_upload, registry.release_claim, registry.claims FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.log_upload, registry.release_claim, registry.claims TO registry_importer;

-- An index takes a third of a page. No value that DICOM allows is longer than this (LO: 64 characters); what is, is listed
-- whole and found by its beginning. The attributes themselves stay as they are.
CREATE OR REPLACE FUNCTION registry.text_of(attributes jsonb, tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(coalesce(btrim(attributes #>> ARRAY[tag, 'Value', '0']), ''), 256);

CREATE OR REPLACE FUNCTION registry.texts_of(attributes jsonb, tag text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT left(value, 256)
             FROM jsonb_array_elements_text(CASE jsonb_typeof(attributes #> ARRAY[tag, 'Value'])
                                            WHEN 'array' THEN attributes #> ARRAY[tag, 'Value'] ELSE '[]' END) AS value);
