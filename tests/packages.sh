#!/bin/sh
# Debian packages that the tests need on the controller: a browser, its certificate store, a PostgreSQL server.
set -eu
missing=""
[ -x /usr/bin/chromium ] || missing="$missing chromium"
command -v certutil >/dev/null || missing="$missing libnss3-tools"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v java >/dev/null || missing="$missing default-jre-headless"
if [ -n "$missing" ]; then
  echo "installing$missing"
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi
