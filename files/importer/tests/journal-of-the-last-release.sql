-- A journal as the release before this one left it: one open job, one that has ended.
CREATE TABLE job (
    id TEXT PRIMARY KEY,
    clinic TEXT NOT NULL,
    folder BLOB NOT NULL,
    state TEXT NOT NULL,
    claimed_at REAL NOT NULL,
    finished_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    processed_path BLOB,
    failed_path BLOB,
    stored INTEGER NOT NULL DEFAULT 0,
    kept INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    reasons TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX job_finished ON job (finished_at, claimed_at);
CREATE TABLE file (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    study_uid TEXT,
    PRIMARY KEY (job, path)
) STRICT, WITHOUT ROWID;
CREATE TABLE study (
    study_uid TEXT PRIMARY KEY,
    clinic TEXT NOT NULL,
    fingerprint TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE position (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO study VALUES ('1.2.3', 'north', 'fingerprint');
INSERT INTO position VALUES ('swept-at', 7);
INSERT INTO job (id, clinic, folder, state, claimed_at) VALUES ('a', 'north', x'61', 'listed', 1.0);
INSERT INTO file (job, path, size, mtime_ns, outcome) VALUES ('a', x'302e64636d', 1, 1, 'pending');
INSERT INTO job (id, clinic, folder, state, claimed_at, finished_at, failed, reasons)
VALUES ('b', 'north', x'62', 'archived', 1.0, 2.0, 2, 'damaged=2');
