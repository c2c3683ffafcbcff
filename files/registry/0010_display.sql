-- Which images are stored and cannot be displayed, and why: a code, whose words those have who tell it.

CREATE TABLE registry.undisplayable (
    study_uid text COLLATE "C" NOT NULL REFERENCES registry.study ON DELETE CASCADE,
    sop_instance_uid text COLLATE "C" NOT NULL CHECK (length(sop_instance_uid) <= 64),
    code text COLLATE "C" NOT NULL CHECK (code ~ '^[a-z0-9-]{1,40}$'),
    PRIMARY KEY (study_uid, sop_instance_uid)
);

-- Whoever sees the study sees this of it. The policy of registry.study applies within.
ALTER TABLE registry.undisplayable ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON registry.undisplayable TO registry_owner USING (true) WITH CHECK (true);
CREATE POLICY of_visible_studies ON registry.undisplayable FOR SELECT TO registry_gateway USING (
    EXISTS (SELECT FROM registry.study s WHERE s.study_uid = undisplayable.study_uid));
GRANT SELECT ON registry.undisplayable TO registry_gateway;

-- The importer, of images that it stored just now: an array of {study_uid, sop_instance_uid, code}; code null: it can be
-- displayed. Before record_study, whose revision and notification make it known. A study that is gone is passed over.
CREATE FUNCTION registry.note_display(images jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    DELETE FROM registry.undisplayable u
    USING jsonb_to_recordset(images) AS i (study_uid text, sop_instance_uid text, code text)
    WHERE i.code IS NULL AND u.study_uid = i.study_uid AND u.sop_instance_uid = i.sop_instance_uid;
    INSERT INTO registry.undisplayable (study_uid, sop_instance_uid, code)
    SELECT DISTINCT ON (i.study_uid, i.sop_instance_uid) i.study_uid, i.sop_instance_uid, i.code
    FROM jsonb_to_recordset(images) AS i (study_uid text, sop_instance_uid text, code text)
    JOIN registry.study s ON s.study_uid = i.study_uid
    WHERE i.code IS NOT NULL
    ON CONFLICT ON CONSTRAINT undisplayable_pkey DO UPDATE SET code = EXCLUDED.code;
END $$;

-- Both run with the caller's rights: what they find, row-level security let through.
DROP FUNCTION registry.locate_study(text);
CREATE FUNCTION registry.locate_study(study_uid text)
RETURNS TABLE (clinic_id text, revision bigint, largest bigint, all_displayable boolean)
LANGUAGE sql STABLE
AS $$
    SELECT s.clinic_id, s.revision, s.largest,
           NOT EXISTS (SELECT FROM registry.undisplayable u WHERE u.study_uid = s.study_uid)
    FROM registry.study s WHERE s.study_uid = $1
$$;

CREATE FUNCTION registry.why_undisplayable(study_uid text, sop_instance_uid text) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT u.code FROM registry.undisplayable u WHERE u.study_uid = $1 AND u.sop_instance_uid = $2 $$;

REVOKE EXECUTE ON FUNCTION registry.note_display, registry.locate_study, registry.why_undisplayable FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.note_display TO registry_importer;
GRANT EXECUTE ON FUNCTION registry.locate_study, registry.why_undisplayable TO registry_gateway;
