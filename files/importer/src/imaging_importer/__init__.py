"""The importer carries what clinics deliver into Orthanc.

Its modules, first in the order in which a delivery meets them:

__main__: starts the command
cli: the command and its options
config: reads the settings and the secrets, and refuses what it does not know
strict_toml: the reader of settings, the same in all services
app: puts the parts together and runs them
web: answers HTTP requests
ways_in: folders and uploads, until the importer has them
spool: where deliveries wait
journal: what is known of each delivery, on disk
worker: whose delivery goes on next
quotas: how much of the archive each clinic uses
disk: whether there is room for more
delivery: carries a delivery from step to step
batch: reads and stamps files, some at a time
tree: looks at folders and moves them, whoever changes them meanwhile
snapshot: private copies of files
dicom: reads and writes the bytes of DICOM files
registry: whose study it is
orthanc: stores images, and tells what Orthanc read
quarantine: finds out which file Orthanc dies of
recorder: shows a study in the registry
settle: moves a delivery to processed or failed, with its report
reasons: why a file was not imported, in words
status: what waits, goes on and failed
metrics: what Prometheus reads
reconcile: carries what was edited or deleted in Orthanc to the registry
erase: deletes what an administrator deletes
operate: ends a delivery or gives up a claim for an operator
rebuild: compares the registry with Orthanc
failpoints: where tests let the importer die
printable: makes strangers' text harmless, the same in all services
systemd: tells systemd that the service is ready and alive
"""
