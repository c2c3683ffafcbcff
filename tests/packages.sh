#!/bin/sh
# Debian packages that the tests need on the controller: a browser, its certificate store, a PostgreSQL server, what packs backups, Orthanc's
# parser (DCMTK).
set -eu
missing=""
[ -x /usr/bin/chromium ] || missing="$missing chromium"
command -v certutil >/dev/null || missing="$missing libnss3-tools"
command -v age >/dev/null || missing="$missing age"
command -v dcmdump >/dev/null || missing="$missing dcmtk"
command -v zstd >/dev/null || missing="$missing zstd"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v gpg >/dev/null || missing="$missing gnupg"
command -v java >/dev/null || missing="$missing default-jre-headless"
if [ -n "$missing" ]; then
  echo "installing$missing"
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

# nginx runs in a test. Unpacked and not installed: an nginx that starts on this machine is nobody's wish.
if [ ! -x .cache/nginx/usr/sbin/nginx ]; then
  mkdir -p .cache/nginx
  apt-cache show nginx >/dev/null 2>&1 || apt-get update -qq
  (cd .cache/nginx && apt-get download -qq -o APT::Sandbox::User=root nginx)
  dpkg-deb --extract .cache/nginx/nginx_*.deb .cache/nginx
  rm .cache/nginx/nginx_*.deb
fi

# What checks rules and receivers. Unpacked and not installed: a Prometheus that starts on this machine is nobody's wish.
tools=.cache/monitoring-tools
if [ ! -x $tools/usr/bin/promtool ] || [ ! -x $tools/usr/bin/amtool ]; then
  mkdir -p $tools
  apt-cache show prometheus >/dev/null 2>&1 || apt-get update -qq
  # Debian 12 has promtool in the package prometheus, Debian 13 in one of its own.
  promtool=$(apt-cache show promtool >/dev/null 2>&1 && echo promtool || echo prometheus)
  (cd $tools && apt-get download -qq -o APT::Sandbox::User=root "$promtool" prometheus-alertmanager)
  for package in "$tools"/*.deb; do
    dpkg-deb --extract "$package" $tools
    rm "$package"
  done
fi
