"""The importer carries the deliveries of clinics into Orthanc.

Its modules, first in the order in which a delivery meets them:

__main__: starts the command
cli: the command and its options
config: reads the settings and the secrets, and refuses unknown keys
strict_toml: the reader of settings, the same in all services
app: puts the parts together and runs them
web: answers HTTP requests
ways_in: folders and uploads, until the importer has them
spool: the directory where deliveries wait
journal: the known facts about each delivery, on disk
worker: decides whose delivery is worked on next
quotas: how much of the archive each clinic uses
disk: whether there is room for more
delivery: carries a delivery from step to step
batch: reads and stamps files, some at a time
tree: looks at folders and moves them, even while others change them
snapshot: private copies of files
dicom: reads and writes the bytes of DICOM files
registry: the owner of each study
orthanc: stores images, and reports what Orthanc read
quarantine: finds the file that stops Orthanc
recorder: shows a study in the registry
settle: moves a delivery to processed or failed, with its report
reasons: the reasons why a file was not imported, in words
status: the deliveries that wait, are worked on or failed
metrics: the metrics that Prometheus reads
reconcile: carries changes and deletions in Orthanc to the registry
erase: deletes for an administrator
operate: ends a delivery or gives up a claim for an operator
rebuild: compares the registry with Orthanc
failpoints: the points at which tests stop the importer
printable: makes strangers' text harmless, the same in all services
systemd: tells systemd that the service is ready and alive
"""
