# Thin shortcuts: each target shows the command that does the work.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# SANDBOX=name makes and uses another sandbox beside the first. INVENTORY=inventories/production works on real hosts.
SANDBOX ?= sandbox
INVENTORY ?= inventories/sandbox
export SANDBOX

HOST := imaging-$(SANDBOX)
STATE := $(HOME)/.local/share/imaging-platform/$(SANDBOX)
PLAYBOOK := .venv/bin/ansible-playbook -i $(INVENTORY)
ON_HOST := docker exec $(HOST)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help
help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: .check .venv/deploy ## set up everything: tools, sandbox host, platform
	python3 sandbox/sandbox.py up --name $(HOST)
	@python3 sandbox/develop.py end --name $(HOST)
	$(PLAYBOOK) site.yml
	@python3 sandbox/summary.py $(STATE)/credentials.json

.PHONY: up-dev
up-dev: up ## set up everything, then run gateway and importer from the working tree until Ctrl-C; Prometheus on 127.0.0.1:9090
	python3 sandbox/develop.py run --name $(HOST)

.PHONY: demo
demo: .venv/deploy ## drop real MR and CT series into two clinics' inboxes and follow them
	@.venv/bin/python sandbox/demo.py $(STATE)/credentials.json

.PHONY: info
info: ## print the sandbox as JSON, for scripts
	@cat $(STATE)/credentials.json

.PHONY: down
down: ## remove the sandbox host with all its data
	python3 sandbox/sandbox.py down --name $(HOST)

.PHONY: restart
restart: ## restart every service of the sandbox host
	$(ON_HOST) systemctl restart imaging.target

.PHONY: status
status: ## say on one screen whether the host is well, and fail if it is not: [JSON=1]
ifeq ($(INVENTORY),inventories/sandbox)
	@$(if $(JSON),,python3 sandbox/summary.py $(STATE)/credentials.json --notices)
	@$(ON_HOST) imaging-status $(if $(JSON),--json)
else
	@ANSIBLE_CALLBACK_PLUGINS=playbooks/callback_plugins ANSIBLE_STDOUT_CALLBACK=said_by_host ANSIBLE_LOAD_CALLBACK_PLUGINS=1 \
	  ANSIBLE_CALLBACKS_ENABLED=said_by_host .venv/bin/ansible -i $(INVENTORY) imaging --become -m ansible.builtin.command -a 'imaging-status $(if $(JSON),--json)'
endif

.PHONY: logs
logs: ## follow the log of every service of the sandbox host
	$(ON_HOST) journalctl --follow --lines=100 --unit='imaging-*' --unit=nginx --unit='postgresql@*' --unit='prometheus*'

.PHONY: logs-importer
logs-importer: ## follow the importer's log
	$(ON_HOST) journalctl --follow --lines=100 --unit=imaging-importer

.PHONY: test-alert
test-alert: .venv/deploy ## send one alert to whoever is told of alerts
	.venv/bin/ansible -i $(INVENTORY) imaging --become -m ansible.builtin.command -a "amtool --alertmanager.url=http://127.0.0.1:9093 \
	  alert add TestAlert severity=info service=test --annotation='summary=\"Somebody tries whether alerts arrive.\"'"

.PHONY: shell-orthanc
shell-orthanc: ## a shell as Orthanc's user
	docker exec --interactive --tty $(HOST) runuser --user orthanc -- /bin/bash

.PHONY: shell-db
shell-db: ## psql on the study registry
	docker exec --interactive --tty $(HOST) runuser --user postgres -- psql registry

.PHONY: add-clinic
add-clinic: .venv/deploy ## CLINIC_ID=… CLINIC_NAME=…: add a clinic; [TAKE_OVER=1] with the studies that it kept when it was removed
	$(PLAYBOOK) add-clinic.yml -e '{"clinic_id": "$(CLINIC_ID)", "clinic_name": "$(CLINIC_NAME)", "take_over": "$(filter 1,$(TAKE_OVER))"}'

.PHONY: remove-clinic
remove-clinic: .venv/deploy ## CLINIC_ID=… [STUDIES=keep or delete] [CONFIRM=<clinic id>]: remove a clinic
	$(PLAYBOOK) playbooks/remove-clinic.yml -e '{"clinic_id": "$(CLINIC_ID)", "studies": "$(STUDIES)", "confirm": "$(CONFIRM)"}'

.PHONY: rename-clinic
rename-clinic: .venv/deploy ## CLINIC_ID=… NAME=…: give a clinic another name; its id never changes
	$(PLAYBOOK) playbooks/rename-clinic.yml -e '{"clinic_id": "$(CLINIC_ID)", "clinic_name": "$(NAME)"}'

.PHONY: list-clinics
list-clinics: .venv/deploy ## the clinics, with the number of their studies, users and clients: [FORMAT=json]
	@.venv/bin/python playbooks/list_people.py clinics --inventory '$(INVENTORY)' --format '$(or $(FORMAT),text)'

.PHONY: list-users
list-users: .venv/deploy ## the users, with clinics, roles, second factor: [CLINIC=…] [FORMAT=json]
	@.venv/bin/python playbooks/list_people.py users --inventory '$(INVENTORY)' --clinic '$(CLINIC)' --format '$(or $(FORMAT),text)'

.PHONY: add-user
add-user: .venv/deploy ## USERNAME=… EMAIL=… CLINIC=… [ROLE=physician]: add a user
	$(PLAYBOOK) playbooks/add-user.yml -e '{"username": "$(USERNAME)", "email": "$(EMAIL)", "clinic": "$(CLINIC)", "roles": "$(or $(ROLE),physician)"}'

.PHONY: reset-password
reset-password: .venv/deploy ## USERNAME=…: give a user another password and end their sessions
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "reset-password"}'

.PHONY: reset-totp
reset-totp: .venv/deploy ## USERNAME=…: remove the one-time password of a lost phone and end the user's sessions
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "reset-totp"}'

.PHONY: require-totp
require-totp: .venv/deploy ## USERNAME=…: have a user set up a one-time password at the next login
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "require-totp"}'

.PHONY: logout
logout: .venv/deploy ## USERNAME=…: end all sessions of a user, or with ALL=1 of everybody
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "logout$(if $(filter 1,$(ALL)),-all)"}'

.PHONY: disable-user
disable-user: .venv/deploy ## USERNAME=…: shut a user out, and keep the account
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "disable"}'

.PHONY: enable-user
enable-user: .venv/deploy ## USERNAME=…: let a disabled user in again
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "enable"}'

.PHONY: rename-user
rename-user: .venv/deploy ## USERNAME=… NEW_USERNAME=…: give a user another name; the access log keeps the old one
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "rename", "new_username": "$(NEW_USERNAME)"}'

.PHONY: remove-user
remove-user: .venv/deploy ## USERNAME=…: remove a user; the access log keeps what they did
	$(PLAYBOOK) playbooks/account.yml -e '{"username": "$(USERNAME)", "account_action": "remove"}'

.PHONY: add-client
add-client: .venv/deploy ## CLIENT_ID=… CLINIC=… [ROLE=physician]: let a clinic's own software in
	$(PLAYBOOK) playbooks/add-client.yml -e '{"client_id": "$(CLIENT_ID)", "clinic": "$(CLINIC)", "roles": "$(or $(ROLE),physician)"}'

.PHONY: new-client-secret
new-client-secret: .venv/deploy ## CLIENT_ID=…: give a clinic's software another secret; the old one ends at once
	$(PLAYBOOK) playbooks/new-client-secret.yml -e '{"client_id": "$(CLIENT_ID)"}'

.PHONY: remove-client
remove-client: .venv/deploy ## CLIENT_ID=…: shut a clinic's software out
	$(PLAYBOOK) playbooks/remove-client.yml -e '{"client_id": "$(CLIENT_ID)"}'

# USER is also a variable of every shell: only the one on make's own command line counts.
.PHONY: audit
audit: ## who opened which study: [STUDY=…] [USER=…] [SINCE=2026-05-04] [LIMIT=…] [FORMAT=json or csv]
	@$(ON_HOST) imaging-gateway audit --study='$(STUDY)' --user='$(if $(filter command,$(origin USER)),$(USER))' \
	  --since='$(SINCE)' --limit='$(LIMIT)' --before='$(BEFORE)' --format='$(or $(FORMAT),text)'

.PHONY: certs
certs: .venv/deploy ## renew the certificate if it is due and tell how long it is good; [RENEW=1] renew it now
	$(PLAYBOOK) playbooks/certificates.yml -e renew=$(filter 1,$(RENEW))

.PHONY: update-testing
update-testing: .venv/deploy ## take what Debian testing has newer of what comes from it, restart what uses it: [PACKAGE=…]
	$(PLAYBOOK) playbooks/update-testing.yml -e '{"package": "$(PACKAGE)"}'

.PHONY: backup
backup: ## back the sandbox host up and print the archive's path there: [INCLUDE_DICOM=1]; or REPOSITORY=1
	@$(ON_HOST) imaging-backup $(if $(filter 1,$(REPOSITORY)),push,create $(if $(filter 1,$(INCLUDE_DICOM)),--include-images))

.PHONY: restore
restore: .venv/deploy ## BACKUP_FILE=…|repository[:ID]: put the platform back to what a backup holds; [YES=1] [VERIFY=all] [ALLOW_MISSING=1] [TRUST=key] [UNSIGNED=1]
	$(PLAYBOOK) playbooks/restore.yml -e archive='$(BACKUP_FILE)' -e confirmed=$(filter 1,$(YES)) \
	  -e every_image=$(filter all,$(VERIFY)) -e allow_missing=$(filter 1,$(ALLOW_MISSING)) \
	  -e trust='$(TRUST)' -e unsigned=$(filter 1,$(UNSIGNED))

.PHONY: restore-drill
restore-drill: .venv/deploy ## restore the newest backup into a throw-away host, log in, measure: [KEY=… of encrypted ones]
	.venv/bin/python sandbox/restore_drill.py $(INVENTORY) --name imaging-drill-$(SANDBOX) $(if $(KEY),--key '$(KEY)')

.PHONY: uninstall
uninstall: .venv/deploy ## take the platform off the host, data stays: [PURGE=1 CONFIRM=<imaging_domain>] removes that too
	$(PLAYBOOK) playbooks/uninstall.yml -e purge=$(filter 1,$(PURGE)) -e confirm='$(CONFIRM)'

.PHONY: .check
.check:
	@python3 sandbox/sandbox.py check

# Debian's python3 comes without ensurepip: python3-venv brings it.
.venv/bin/python:
	python3 -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	python3 -m venv .venv

.venv/deploy: requirements.txt | .venv/bin/python
	.venv/bin/pip install --disable-pip-version-check --require-hashes --requirement requirements.txt
	touch $@

.venv/test: requirements-test.txt .venv/deploy
	.venv/bin/pip install --disable-pip-version-check --require-hashes --requirement requirements-test.txt
	touch $@

.PHONY: test
test: .check .venv/test lint test-unit test-platform ## run every test (about three quarters of an hour on two cores)

.PHONY: lint
lint: .venv/test ## lint playbooks, Python and shell
	yamllint --strict .
	ansible-lint --offline --profile production
	ruff check .
	ruff format --check .
	mypy sandbox tools library module_utils files/viewer vars playbooks/list_people.py
	mypy playbooks/action_plugins playbooks/callback_plugins roles/grafana/filter_plugins
	mypy files/importer/src
	mypy files/gateway/src
	mypy files/backup/src
	mypy files/status/imaging_status.py
	mypy files/updates/imaging_updates.py
	shellcheck .ci/run tests/packages.sh

.PHONY: test-unit
test-unit: .venv/test ## tests that need no host
	tests/packages.sh
	pytest -n 2 files/registry/tests files/gateway/tests files/importer/tests files/backup/tests files/status/tests files/updates/tests
	pytest -n 2 --dist loadfile tests/unit

# A short form of it is among the unit tests. One segment runs again with IMAGING_SEED=, which each prints.
.PHONY: test-recovery
test-recovery: .venv/test ## the importer's long tests: a thousand kills, faults and full disks
	tests/packages.sh
	IMAGING_CAMPAIGN=25 pytest -n 2 -rP files/importer/tests/test_recovery.py -k campaign

# A short form of it is among the unit tests. One run is replayed with IMAGING_SEED=, which each prints.
.PHONY: test-readers
test-readers: .venv/test ## let DCMTK read what the importer's reader lets through of 100,000 damaged and odd files
	tests/packages.sh
	IMAGING_READERS=100000 pytest -rP files/importer/tests/test_readers.py

# Not part of `make test`: it runs the tests of a changed function once for each mistake.
.PHONY: test-mutation
test-mutation: .venv/test ## make small mistakes in a copy of our code and say how many of them the tests find: [SAMPLE=150] [SEED=…] [PACKAGE=…]
	tests/packages.sh
	nice -n 19 python tools/mutate.py $(PACKAGE) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

# The README's own commands make the host that the other tests then attack; it has a name of its own.
.PHONY: test-platform
test-platform: export SANDBOX := test
test-platform: .venv/test ## follow the README on a fresh host, then test that host from inside and from outside
	pytest -s tests/host/readme
	pytest --hosts=docker://imaging-test molecule/default/tests
	pytest tests/host/platform tests/host/browser
	python3 sandbox/sandbox.py down --name imaging-test

.PHONY: test-alerts
test-alerts: .venv/test ## cause every fault of tests/host/faults on the sandbox host and see that it is told (SANDBOX=)
	pytest tests/host/platform/test_monitoring.py tests/host/faults

# Not part of `make test`: it deploys your sandbox several times, with other certificates each time.
.PHONY: test-certs
test-certs: .venv/test ## issue, renew and fail to renew certificates by a real ACME server on the sandbox host (SANDBOX=)
	pytest -s tests/host/certificates

.PHONY: test-hardening
test-hardening: .venv/test ## let testssl.sh and lynis judge the sandbox host (SANDBOX=)
	pytest tests/host/hardening

# Not part of `make test`: it takes ten minutes and an image of 600 MB.
.PHONY: test-front
test-front: .venv/test ## ask the front door of the sandbox host oddly for ten minutes, and upload the largest image (SANDBOX=)
	ODD_REQUESTS_SECONDS=600 pytest -s tests/host/platform/test_odd_requests.py tests/host/front

# Not part of `make test`: it takes two deployments.
.PHONY: test-restore
test-restore: export SANDBOX := restore
test-restore: .check .venv/test ## lose host and controller's secrets, restore a backup onto a fresh host, log in, compare an image; a drill
	pytest -s tests/host/restore
	python3 sandbox/sandbox.py down --name imaging-restore

# Not part of `make test`: it makes servers on your sandbox, and restores it.
.PHONY: test-repository
test-repository: .venv/test ## fill a repository by SFTP and by S3 on the sandbox host, and restore the host from each (SANDBOX=)
	pytest -s tests/host/repository

# Not part of `make test`: it takes two deployments, and the history of this repository.
.PHONY: test-upgrade
test-upgrade: export SANDBOX := upgrade
test-upgrade: .check .venv/test ## deploy the previous release, use it, deploy this one over it: nothing is lost
	pytest -s tests/host/upgrade
	python3 sandbox/sandbox.py down --name imaging-upgrade

# Not part of `make test`: it takes a deployment.
.PHONY: test-ssh
test-ssh: export SANDBOX := ssh
test-ssh: .check .venv/test ## the production inventory on a fresh host: by ssh, as a user who may sudo
	pytest -s tests/host/ssh

# Not part of `make test`: it takes two deployments.
.PHONY: test-uninstall
test-uninstall: export SANDBOX := uninstall
test-uninstall: .check .venv/test ## take the platform off a host in use, bring it back with its data, take it and its data off
	pytest -s tests/host/uninstall
	python3 sandbox/sandbox.py down --name imaging-uninstall

# Not part of `make test`: it reboots your sandbox.
.PHONY: test-reboot
test-reboot: .venv/test ## reboot the sandbox host during an import: everything is back within two minutes, nothing is lost (SANDBOX=)
	pytest -s tests/host/reboot

# Not part of `make test`, whose host has been through the same: deployed, once more without a change, looked at inside.
.PHONY: test-molecule
test-molecule: .venv/test ## converge, check, idempotence and testinfra on a host of its own
	molecule test

.PHONY: bench
bench: .venv/test ## measure the figures that the README quotes
	python bench/deploy.py

.PHONY: bench-import
bench-import: export SANDBOX := bench
bench-import: .venv/test ## measure the importer against a plain STOW-RS loop
	python bench/importer.py

.PHONY: bench-gateway
bench-gateway: export SANDBOX := bench
bench-gateway: .venv/test ## measure the platform against raw Orthanc: [QUICK=1]
	QUICK=$(QUICK) python bench/gateway.py

.PHONY: docs
docs: .venv/deploy ## write docs/ACCESS.md and docs/CONFORMANCE.md from the code, and docs/VARIABLES.md from the variables' specifications
	.venv/bin/python tests/support/access_document.py > docs/ACCESS.md
	.venv/bin/python tests/support/conformance_document.py > docs/CONFORMANCE.md
	.venv/bin/python tests/support/variables_document.py > docs/VARIABLES.md

.PHONY: docs-exposure
docs-exposure: .venv/deploy ## write how exposed each unit of the sandbox host is into docs/ARCHITECTURE.md
	.venv/bin/python tests/support/exposure_document.py $(HOST)

.PHONY: outdated
outdated: .venv/deploy ## say what is newer than what is pinned, and than what the hosts have
	@.venv/bin/python vars/outdated.py $(INVENTORY)

.PHONY: audit-dependencies
audit-dependencies: .venv/test ## say which pinned packages have known vulnerabilities, and fail if any has
	@.venv/bin/python vars/audit_dependencies.py

.PHONY: requirements
requirements: ## pin the newest versions of requirements*.in, with hashes (needs uv)
	for name in requirements requirements-test; do \
	  uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links $$name.in --output-file $$name.txt || exit 1; done
