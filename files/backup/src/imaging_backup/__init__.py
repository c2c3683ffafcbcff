"""Backs the platform up into one backup file that proves itself, and restores it.

Its modules: first those that make a backup, then those that restore one:

__main__: starts the command
cli: the command and its options
config: reads the settings and the secrets, and refuses unknown keys
strict_toml: the reader of settings, the same in all services
errors: the errors, in words
create: takes one moment of the databases and the images that it names, and writes one backup file
databases: dumps and loads the databases of the host's PostgreSQL
images: gives images second names, so that none disappears while it is read
realm: exports the realm from Keycloak
backup_file: the format of a backup file, which proves itself
signing: signs a backup, and says whose signatures are accepted
retention: finds the backup files that are too old
repository: the continuous backup, into a repository of restic
restore: restores a backup
metrics: the metrics that Prometheus reads
printable: makes strangers' text harmless, the same in all services
lines: the same for text of several lines
"""
