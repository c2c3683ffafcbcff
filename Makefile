# Thin shortcuts: each target shows the command that does the work.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# SANDBOX=name makes and uses another sandbox beside the first. INVENTORY=inventories/production works on real hosts.
SANDBOX ?= sandbox
INVENTORY ?= inventories/sandbox
export SANDBOX

# Values arrive as they were typed. make expands no $ in them. q and extra protect them from the shell and from JSON.
ARGUMENTS := SANDBOX INVENTORY JSON CLINIC_ID CLINIC_NAME NAME CLINIC TAKE_OVER STUDIES CONFIRM USERNAME EMAIL ROLE ALL \
  NEW_USERNAME CLIENT_ID STUDY USER SINCE LIMIT BEFORE FORMAT RENEW PACKAGE INCLUDE_DICOM REPOSITORY BACKUP_FILE YES \
  VERIFY ALLOW_MISSING TRUST UNSIGNED KEY PURGE QUICK SAMPLE SEED
$(foreach name,$(ARGUMENTS),$(if $(filter command,$(firstword $(origin $(name)))),$(eval override $(name) := $$(value $(name)))))
# Likewise what the environment says, and it stays the environment's.
$(foreach name,$(ARGUMENTS),$(if $(filter environment,$(origin $(name))),$(eval $(name) := $$(value $(name)))))
# A word for the shell.
q = '$(subst ','\'',$1)'
# A variable for a playbook: its name and its value. Ansible would evaluate a value with braces, on this machine.
extra = $(if $(findstring {{,$2)$(findstring {%,$2),$(error $1 may have neither {{ nor {%. Nothing was done))-e $(call q,{"$1": "$(subst ",\",$(subst \,\\,$2))"})

HOST := $(call q,imaging-$(SANDBOX))
STATE := $(call q,$(HOME)/.local/share/imaging-platform/$(SANDBOX))
PLAYBOOK := .venv/bin/ansible-playbook -i $(call q,$(INVENTORY))
# A job, which names the host (playbooks/lookup_plugins/hosts_of.py), and the command follow.
ON_HOST := .venv/bin/python tools/on_host.py $(call q,$(INVENTORY))
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# These make, fill or remove a sandbox. They refuse the inventory of another host. A test knows for every target whether it
# refuses, works on every inventory, or needs no host.
SANDBOX_ONLY := up demo info down up-dev test test-platform test-alerts test-certs test-hardening test-nginx \
  test-restore test-repository test-upgrade test-ssh test-uninstall test-reboot test-molecule bench bench-import bench-gateway
NO_HOST := help lint test-unit test-recovery test-readers test-mutation docs requirements audit-dependencies release

ifneq ($(abspath $(INVENTORY)),$(CURDIR)/inventories/sandbox)
ELSEWHERE := 1
ifneq ($(shell test -e $(call q,$(INVENTORY)) && echo there),there)
$(error there is no inventory '$(INVENTORY)': INVENTORY takes a folder or a file, as in INVENTORY=inventories/production)
endif
ifneq ($(filter $(SANDBOX_ONLY),$(MAKECMDGOALS)),)
$(error make $(firstword $(filter $(SANDBOX_ONLY),$(MAKECMDGOALS))) works on a sandbox alone, and INVENTORY is $(INVENTORY). \
  Nothing was done. `ansible-playbook site.yml -i $(INVENTORY)` deploys to a host of your own, `make uninstall` takes the \
  platform off it)
endif
endif

##@ Start

.PHONY: help
help: ## show the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: .check .venv/deploy ## make a sandbox: tools, a throw-away host, the platform on it
	python3 tools/sandbox.py up --name $(HOST)
	@python3 tools/develop.py end --name $(HOST)
	$(PLAYBOOK) site.yml
	@python3 tools/summary.py $(STATE)/credentials.json

.PHONY: demo
demo: .venv/deploy ## drop real MR and CT series into two clinics' inboxes and follow them
	@.venv/bin/python tools/demo.py $(STATE)/credentials.json

.PHONY: info
info: ## print the sandbox as JSON, for scripts
	@python3 tools/summary.py $(STATE)/credentials.json --json

.PHONY: down
down: ## remove the sandbox with all its data
	python3 tools/sandbox.py down --name $(HOST)

##@ Look

.PHONY: status
status: .venv/deploy ## say on one screen whether the host is well; fail if it is not: [JSON=1]
	@$(if $(JSON)$(ELSEWHERE),,python3 tools/summary.py $(STATE)/credentials.json --notices)
	@$(ON_HOST) imaging -- imaging-status $(if $(JSON),--json)

.PHONY: logs
logs: .venv/deploy ## follow the log of every service of the host
	$(ON_HOST) imaging --tty -- journalctl --follow --lines=100 --unit='imaging-*' --unit=nginx --unit='postgresql@*' --unit='prometheus*'

.PHONY: logs-importer
logs-importer: .venv/deploy ## follow the importer's log
	$(ON_HOST) importer --tty -- journalctl --follow --lines=100 --unit=imaging-importer

# USER is also a variable of every shell. Only USER on make's own command line counts.
.PHONY: audit
audit: .venv/deploy ## say who opened which study: [STUDY=…] [USER=…] [SINCE=2026-05-04]
	@$(ON_HOST) gateway -- imaging-gateway audit --study=$(call q,$(STUDY)) \
	  --user=$(call q,$(if $(filter override,$(firstword $(origin USER))),$(USER))) --since=$(call q,$(SINCE)) \
	  --limit=$(call q,$(LIMIT)) --before=$(call q,$(BEFORE)) --format=$(call q,$(or $(FORMAT),text))

.PHONY: shell-orthanc
shell-orthanc: .venv/deploy ## open a shell as Orthanc's user
	$(ON_HOST) orthanc --tty -- runuser --user orthanc -- /bin/bash

.PHONY: shell-db
shell-db: .venv/deploy ## open psql on the registry
	$(ON_HOST) postgres --tty -- runuser --user postgres -- psql registry

.PHONY: restart
restart: .venv/deploy ## restart every service of the host
	$(ON_HOST) imaging -- systemctl restart imaging.target

.PHONY: test-alert
test-alert: .venv/deploy ## send one alert to everybody who is told of alerts
	$(ON_HOST) monitoring -- amtool alert add TestAlert severity=info service=test \
	  --annotation='summary="Somebody tries whether alerts arrive."'

##@ Clinics

.PHONY: add-clinic
add-clinic: .venv/deploy ## add a clinic: CLINIC_ID=… CLINIC_NAME=… [TAKE_OVER=1]
	$(PLAYBOOK) add-clinic.yml $(call extra,clinic_id,$(CLINIC_ID)) $(call extra,clinic_name,$(CLINIC_NAME)) \
	  $(call extra,take_over,$(filter 1,$(TAKE_OVER)))

.PHONY: remove-clinic
remove-clinic: .venv/deploy ## remove a clinic: CLINIC_ID=… [STUDIES=keep or delete] [CONFIRM=…]
	$(PLAYBOOK) playbooks/remove-clinic.yml $(call extra,clinic_id,$(CLINIC_ID)) $(call extra,studies,$(STUDIES)) \
	  $(call extra,confirm,$(CONFIRM))

.PHONY: rename-clinic
rename-clinic: .venv/deploy ## give a clinic another name: CLINIC_ID=… NAME=…
	$(PLAYBOOK) playbooks/rename-clinic.yml $(call extra,clinic_id,$(CLINIC_ID)) $(call extra,clinic_name,$(NAME))

.PHONY: list-clinics
list-clinics: .venv/deploy ## show the clinics and their numbers of studies and users: [FORMAT=json]
	@.venv/bin/python tools/list_people.py clinics --inventory $(call q,$(INVENTORY)) --format $(call q,$(or $(FORMAT),text))

##@ Users

.PHONY: list-users
list-users: .venv/deploy ## show the users, their clinics and roles: [CLINIC=…] [FORMAT=json]
	@.venv/bin/python tools/list_people.py users --inventory $(call q,$(INVENTORY)) --clinic $(call q,$(CLINIC)) \
	  --format $(call q,$(or $(FORMAT),text))

.PHONY: add-user
add-user: .venv/deploy ## add a user: USERNAME=… EMAIL=… CLINIC=… [ROLE=physician]
	$(PLAYBOOK) playbooks/add-user.yml $(call extra,username,$(USERNAME)) $(call extra,email,$(EMAIL)) \
	  $(call extra,clinic,$(CLINIC)) $(call extra,roles,$(or $(ROLE),physician))

.PHONY: reset-password
reset-password: .venv/deploy ## give a user another password and end their sessions: USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,reset-password)

.PHONY: reset-totp
reset-totp: .venv/deploy ## remove the one-time password of a lost phone: USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,reset-totp)

.PHONY: require-totp
require-totp: .venv/deploy ## ask for a one-time password from the next login on: USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,require-totp)

.PHONY: logout
logout: .venv/deploy ## end all sessions of a user: USERNAME=…; of everybody: ALL=1
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,logout$(if $(filter 1,$(ALL)),-all))

.PHONY: disable-user
disable-user: .venv/deploy ## shut a user out, and keep the account: USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,disable)

.PHONY: enable-user
enable-user: .venv/deploy ## let a disabled user in again: USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,enable)

.PHONY: rename-user
rename-user: .venv/deploy ## give a user another name: USERNAME=… NEW_USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,rename) \
	  $(call extra,new_username,$(NEW_USERNAME))

.PHONY: remove-user
remove-user: .venv/deploy ## remove a user: USERNAME=…
	$(PLAYBOOK) playbooks/account.yml $(call extra,username,$(USERNAME)) $(call extra,account_action,remove)

##@ Clients

.PHONY: add-client
add-client: .venv/deploy ## let a clinic's own software in: CLIENT_ID=… CLINIC=… [ROLE=physician]
	$(PLAYBOOK) playbooks/add-client.yml $(call extra,client_id,$(CLIENT_ID)) $(call extra,clinic,$(CLINIC)) \
	  $(call extra,roles,$(or $(ROLE),physician))

.PHONY: new-client-secret
new-client-secret: .venv/deploy ## give it another secret; the old one ends at once: CLIENT_ID=…
	$(PLAYBOOK) playbooks/new-client-secret.yml $(call extra,client_id,$(CLIENT_ID))

.PHONY: remove-client
remove-client: .venv/deploy ## shut it out again: CLIENT_ID=…
	$(PLAYBOOK) playbooks/remove-client.yml $(call extra,client_id,$(CLIENT_ID))

##@ Backup

.PHONY: backup
backup: .venv/deploy ## make a backup file and print its path: [INCLUDE_DICOM=1]; or REPOSITORY=1
	@$(ON_HOST) imaging -- imaging-backup $(if $(filter 1,$(REPOSITORY)),push,create $(if $(filter 1,$(INCLUDE_DICOM)),--include-images))

.PHONY: restore
restore: .venv/deploy ## put the platform back to a backup: BACKUP_FILE=… or =repository[:ID]
	$(PLAYBOOK) playbooks/restore.yml $(call extra,backup_file,$(BACKUP_FILE)) $(call extra,confirmed,$(filter 1,$(YES))) \
	  $(call extra,every_image,$(filter all,$(VERIFY))) $(call extra,allow_missing,$(filter 1,$(ALLOW_MISSING))) \
	  $(call extra,trust,$(TRUST)) $(call extra,unsigned,$(filter 1,$(UNSIGNED)))

.PHONY: restore-drill
restore-drill: .venv/deploy ## restore the newest backup into a throw-away host, log in: [KEY=…]
	.venv/bin/python tools/restore_drill.py $(call q,$(INVENTORY)) --name $(call q,imaging-drill-$(SANDBOX)) $(if $(KEY),--key $(call q,$(KEY)))

##@ Certificates and updates

.PHONY: certs
certs: .venv/deploy ## renew the certificate if it is due: [RENEW=1]
	$(PLAYBOOK) playbooks/certificates.yml $(call extra,renew,$(filter 1,$(RENEW)))

.PHONY: update-testing
update-testing: .venv/deploy ## update the packages from Debian testing: [PACKAGE=…]
	$(PLAYBOOK) playbooks/update-testing.yml $(call extra,package,$(PACKAGE))

.PHONY: outdated
outdated: .venv/deploy ## say what is newer than what is pinned or installed
	@.venv/bin/python tools/outdated.py $(call q,$(INVENTORY))

.PHONY: audit-dependencies
audit-dependencies: .venv/test ## say which pinned packages have known vulnerabilities; fail if any has
	@.venv/bin/python tools/audit_dependencies.py

.PHONY: uninstall
uninstall: .venv/deploy ## take the platform off the host, keep its data: [PURGE=1 CONFIRM=…]
	$(PLAYBOOK) playbooks/uninstall.yml $(call extra,purge,$(filter 1,$(PURGE))) $(call extra,confirm,$(CONFIRM))

##@ Tests

.PHONY: test
test: .check .venv/test lint test-unit test-platform ## run the tests of every change, about three quarters of an hour

.PHONY: lint
lint: .venv/test ## lint playbooks, Python and shell
	yamllint --strict .
	ansible-lint --offline --profile production
	ruff check .
	ruff format --check .
	mypy tools library module_utils files/viewer
	mypy playbooks/action_plugins playbooks/lookup_plugins roles/grafana/filter_plugins
	mypy files/importer/src
	mypy files/gateway/src
	mypy files/backup/src
	mypy files/status/imaging_status.py
	mypy files/updates/imaging_updates.py
	shellcheck .ci/run tests/packages.sh
	proselint check --config tools/proselint.json *.md docs/*.md && python tools/prose.py

.PHONY: test-unit
test-unit: .venv/test ## tests that need no host
	tests/packages.sh
	pytest -n 2 files/registry/tests files/gateway/tests files/importer/tests files/backup/tests files/status/tests files/updates/tests
	pytest -n 2 --dist loadfile tests/unit

# The README's own commands make the host that the other tests then attack. The host has its own name.
.PHONY: test-platform
test-platform: export SANDBOX := test
test-platform: .venv/test ## follow the README on a fresh host, then test that host inside and out
	pytest -s tests/host/readme
	pytest --hosts=docker://imaging-test molecule/default/tests
	pytest tests/host/platform tests/host/browser
	python3 tools/sandbox.py down --name imaging-test

# A short form of it is among the unit tests. One segment runs again with IMAGING_SEED=, which each prints.
.PHONY: test-recovery
test-recovery: .venv/test ## a thousand kills, faults and full disks of the importer
	tests/packages.sh
	IMAGING_CAMPAIGN=25 pytest -n 2 -rP files/importer/tests/test_recovery.py -k campaign

# A short form of it is among the unit tests. One run is replayed with IMAGING_SEED=, which each prints.
.PHONY: test-readers
test-readers: .venv/test ## 100,000 damaged and odd files: DCMTK reads what the importer lets through
	tests/packages.sh
	IMAGING_READERS=100000 pytest -rP files/importer/tests/test_readers.py

# Not part of `make test`: it runs the tests of a changed line once for each mistake.
.PHONY: test-mutation
test-mutation: .venv/test ## make small mistakes in our code, count what the tests find: [SAMPLE=150]
	tests/packages.sh
	nice -n 19 python tools/mutate.py $(if $(PACKAGE),$(call q,$(PACKAGE))) $(if $(SAMPLE),--sample $(call q,$(SAMPLE))) $(if $(SEED),--seed $(call q,$(SEED)))

.PHONY: test-alerts
test-alerts: .venv/test ## cause every fault on the sandbox and see that it is told
	pytest tests/host/platform/test_monitoring.py tests/host/faults

# Not part of `make test`: it deploys your sandbox several times, with other certificates each time.
.PHONY: test-certs
test-certs: .venv/test ## issue, renew and fail to renew certificates by a real ACME server
	pytest -s tests/host/certificates

.PHONY: test-hardening
test-hardening: .venv/test ## let testssl.sh and lynis judge the sandbox
	pytest tests/host/hardening

# Not part of `make test`: it takes ten minutes and an image of 600 MB.
.PHONY: test-nginx
test-nginx: .venv/test ## odd requests for ten minutes, and an upload of the largest image
	ODD_REQUESTS_SECONDS=600 pytest -s tests/host/platform/test_odd_requests.py tests/host/nginx

# Not part of `make test`: it takes two deployments.
.PHONY: test-restore
test-restore: export SANDBOX := restore
test-restore: .check .venv/test ## lose the host and its secrets, restore a backup onto a fresh host
	pytest -s tests/host/restore
	python3 tools/sandbox.py down --name imaging-restore

# Not part of `make test`: it makes servers on your sandbox, and restores it.
.PHONY: test-repository
test-repository: .venv/test ## fill backup repositories by SFTP and S3, restore from each
	pytest -s tests/host/repository

# Not part of `make test`: it takes two deployments, and the history of this repository.
.PHONY: test-upgrade
test-upgrade: export SANDBOX := upgrade
test-upgrade: .check .venv/test ## deploy the previous release, use it, deploy this one over it
	pytest -s tests/host/upgrade
	python3 tools/sandbox.py down --name imaging-upgrade

# Not part of `make test`: it takes a deployment.
.PHONY: test-ssh
test-ssh: export SANDBOX := ssh
test-ssh: .check .venv/test ## deploy the production inventory by ssh, as a user who may sudo
	pytest -s tests/host/ssh

# Not part of `make test`: it takes two deployments.
.PHONY: test-uninstall
test-uninstall: export SANDBOX := uninstall
test-uninstall: .check .venv/test ## take the platform off, bring it back with its data, take all off
	pytest -s tests/host/uninstall
	python3 tools/sandbox.py down --name imaging-uninstall

# Not part of `make test`: it reboots your sandbox.
.PHONY: test-reboot
test-reboot: .venv/test ## reboot the sandbox during an import: nothing is lost
	pytest -s tests/host/reboot

# Not part of `make test`, because its host has passed the same steps: deploy, deploy again without a change, look inside.
.PHONY: test-molecule
test-molecule: .venv/test ## converge, check, idempotence and testinfra on a host of its own
	molecule test

##@ Benchmarks

.PHONY: bench
bench: .venv/test ## measure deployment and memory
	python bench/deploy.py

.PHONY: bench-import
bench-import: export SANDBOX := bench
bench-import: .venv/test ## measure the importer against a plain STOW-RS loop
	python bench/importer.py

.PHONY: bench-gateway
bench-gateway: export SANDBOX := bench
bench-gateway: .venv/test ## measure the platform against raw Orthanc: [QUICK=1]
	QUICK=$(call q,$(QUICK)) python bench/gateway.py

##@ Develop

.PHONY: up-dev
up-dev: up ## run gateway and importer from the working tree until Ctrl-C
	python3 tools/develop.py run --name $(HOST)

.PHONY: docs
docs: .venv/deploy ## write docs/ACCESS.md, docs/CONFORMANCE.md and docs/VARIABLES.md
	.venv/bin/python tools/access_document.py > docs/ACCESS.md
	.venv/bin/python tools/conformance_document.py > docs/CONFORMANCE.md
	.venv/bin/python tools/variables_document.py > docs/VARIABLES.md

.PHONY: docs-exposure
docs-exposure: .venv/deploy ## measure the host's units and write docs/ARCHITECTURE.md's table
	.venv/bin/python tools/exposure_document.py $(call q,$(INVENTORY))

.PHONY: requirements
requirements: ## pin the newest versions of requirements*.in (needs uv)
	for name in requirements requirements-test; do \
	  uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links $$name.in --output-file $$name.txt || exit 1; done

.PHONY: release
release: .venv/deploy ## check that this tree can be released, and print how to tag it
	@.venv/bin/python tools/release.py

.PHONY: .check
.check:
	@python3 tools/sandbox.py check

# Debian's python3 has no ensurepip. The package python3-venv brings it.
.venv/bin/python:
	python3 -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	python3 -m venv .venv

.venv/deploy: requirements.txt | .venv/bin/python
	.venv/bin/pip install --disable-pip-version-check --require-hashes --requirement requirements.txt
	touch $@

.venv/test: requirements-test.txt .venv/deploy
	.venv/bin/pip install --disable-pip-version-check --require-hashes --requirement requirements-test.txt
	touch $@
