-- Studies that only the registry knows: `studies` of them in 50 clinics, dates over ten years.
-- Run as registry_owner in the database registry of a throw-away host, with the importer stopped: it would forget them.
\set ON_ERROR_STOP on
INSERT INTO registry.clinic (clinic_id, name)
SELECT 'bench-' || n, 'Bench ' || n FROM generate_series(1, 49) AS n ON CONFLICT DO NOTHING;

-- Filling an index row by row takes several times as long as making it.
SELECT pg_get_indexdef('registry.study_words'::regclass) AS index_as_deployed \gset
DROP INDEX registry.study_words;
INSERT INTO registry.study (study_uid, clinic_id, revision, recorded_at, attributes)
SELECT '1.2.826.0.1.3680043.9.999.' || n,
    CASE n % 50 WHEN 0 THEN 'denscan-central' ELSE 'bench-' || n % 50 END,
    1,
    now(),
    jsonb_build_object(
        '00080020', jsonb_build_object('vr', 'DA', 'Value', jsonb_build_array(to_char(date '2016-01-01' + (n * 7919::bigint % 3650)::int, 'YYYYMMDD'))),
        '00080030', jsonb_build_object('vr', 'TM', 'Value', jsonb_build_array(to_char(time '00:00' + (n * 104729::bigint % 86400) * interval '1 s', 'HH24MISS'))),
        '00080050', jsonb_build_object('vr', 'SH', 'Value', jsonb_build_array('A' || n)),
        '00080061', jsonb_build_object('vr', 'CS', 'Value', jsonb_build_array((ARRAY['CT', 'MR', 'US', 'CR', 'DX', 'MG', 'NM', 'XA'])[1 + n / 50 % 8])),
        '00080090', jsonb_build_object('vr', 'PN', 'Value', jsonb_build_array(jsonb_build_object('Alphabetic', 'REFERRING^' || n % 97))),
        '00081030', jsonb_build_object('vr', 'LO', 'Value', jsonb_build_array('Examination of region ' || n % 211)),
        '00100010', jsonb_build_object('vr', 'PN', 'Value', jsonb_build_array(jsonb_build_object('Alphabetic',
            upper(substr(md5((n / 3)::text), 1, 8)) || '^' || (ARRAY['ANNA', 'IVAN', 'AIGUL', 'PETER', 'SOFIA', 'DIAS', 'MARIE'])[1 + n / 50 % 7]))),
        '00100020', jsonb_build_object('vr', 'LO', 'Value', jsonb_build_array('P' || n / 3)),
        '00100030', jsonb_build_object('vr', 'DA', 'Value', jsonb_build_array('19' || 30 + n % 70 || '0101')),
        '00100040', jsonb_build_object('vr', 'CS', 'Value', jsonb_build_array((ARRAY['F', 'M'])[1 + n % 2])),
        '0020000D', jsonb_build_object('vr', 'UI', 'Value', jsonb_build_array('1.2.826.0.1.3680043.9.999.' || n)),
        '00201206', jsonb_build_object('vr', 'IS', 'Value', jsonb_build_array(3)),
        '00201208', jsonb_build_object('vr', 'IS', 'Value', jsonb_build_array(300)))
FROM generate_series(1, :studies) AS n;
:index_as_deployed;
ANALYZE registry.study;
