"""Backs the platform up into one backup file that proves itself, and restores it.

Its modules, first the way of a backup, then the way back:

__main__: starts the command
cli: the command and its options
config: reads the settings and the secrets, and refuses what it does not know
strict_toml: the reader of settings, the same in all services
errors: what goes wrong, in words
create: one moment of the databases, the images that it names, everything into one backup file
databases: dumps and loads the databases of the host's PostgreSQL
images: second names of images, so that none goes while it is read
realm: exports the realm from Keycloak
backup_file: the format of a backup file, which proves itself
signing: signs a backup, and says whose signature is believed
retention: which backup files have had their time
repository: the continuous way, into a repository of restic
restore: the way back
metrics: what Prometheus reads
printable: makes strangers' text harmless, the same in all services
lines: the same for text of several lines
"""
