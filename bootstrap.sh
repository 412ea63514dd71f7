#!/usr/bin/env bash
# Make .venv ready: bootstrap.sh EXTRA... (the extras of pyproject.toml). Later runs with the same needs return at once.
# PYTHON=/path/to/python chooses the interpreter. As root on Debian or Ubuntu it installs missing system packages, else it names them.
set -euo pipefail
cd "$(dirname "$0")"

VENV=.venv
STAMP=$VENV/.mlaas-ready
say() { printf '== %s\n' "$*" >&2; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

debian_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_updated=
apt_install() {
    if [ -z "$apt_updated" ]; then
        say "apt-get update"
        DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null >/dev/null || say "apt-get update failed; trying with the lists that are here"
        apt_updated=1
    fi
    say "apt-get install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" </dev/null >/dev/null
}

# Debian keeps PostgreSQL's programs out of the PATH.
installed() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null; }

# system_package PROGRAM PACKAGE WHAT-FOR: a program that some parts need; its absence is told, not fatal (the tests list what they left out).
system_package() {
    installed "$1" && return
    if debian_root; then
        apt_install "$2" || say "the package $2 could not be installed: $3 will not work"
    else
        say "the program $1 is missing (Debian and Ubuntu: apt-get install $2): $3 will be left out"
    fi
}

# apache_module MODULE PACKAGE WHAT-FOR
apache_module() {
    [ -e "/usr/lib/apache2/modules/$1.so" ] && return
    if debian_root; then apt_install "$2" || say "the package $2 could not be installed: $3 will not work"; fi
}

usable_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

usable_venv() { usable_python "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
        if usable_python "$name"; then command -v "$name"; return; fi
    done
    return 1
}

make_venv() {
    local python version
    if ! python=$(find_python); then
        debian_root && { apt_install python3 python3-venv || true; }
        python=$(find_python) || { debian_root && apt_install python3.11 python3.11-venv && python=$(find_python); } ||
            die "Python 3.11 or newer is missing (Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv)"
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        debian_root && { apt_install "python$version-venv" || apt_install python3-venv; }
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            die "the module ensurepip of $python is missing (Debian and Ubuntu: apt-get install python$version-venv)"
    fi
    say "creating $VENV with $python ($version)"
    "$python" -m venv --clear "$VENV"
}

# uv takes the index, the certificates and the trusted hosts that pip is configured with.
uv_from_pip() {
    local value
    value=$(pip_config index-url PIP_INDEX_URL) && export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$value}"
    value=$(pip_config extra-index-url PIP_EXTRA_INDEX_URL) && export UV_INDEX="${UV_INDEX:-$value}"
    value=$(pip_config find-links PIP_FIND_LINKS) && export UV_FIND_LINKS="${UV_FIND_LINKS:-$value}"
    value=$(pip_config trusted-host PIP_TRUSTED_HOST) && export UV_INSECURE_HOST="${UV_INSECURE_HOST:-$value}"
    value=$(pip_config cert PIP_CERT) && export SSL_CERT_FILE="${SSL_CERT_FILE:-$value}"
    export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
}

pip_config() {
    if [ -n "${!2:-}" ]; then printf '%s' "${!2}"; return; fi
    "$VENV/bin/python" -m pip config get "install.$1" 2>/dev/null || "$VENV/bin/python" -m pip config get "global.$1" 2>/dev/null
}

install() {
    local target
    target=".[$(IFS=,; echo "$*")]"
    umask 022  # jobs of the service run as other users
    if "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv && (
        uv_from_pip
        # compiled now, for jobs may not write here: each of them would compile its framework anew
        "$VENV/bin/uv" pip install --python "$VENV/bin/python" --compile-bytecode --editable "$target"
    ); then return; fi
    say "uv did not succeed; trying pip"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --editable "$target"
}

fingerprint() { cat pyproject.toml bootstrap.sh | sha256sum | cut -d' ' -f1; }

# ready EXTRA...: all of them were installed for this very pyproject.toml.
ready() {
    local extra
    [ -f "$STAMP" ] || return 1
    [ "$(head -n 1 "$STAMP")" = "$(fingerprint)" ] || return 1
    "$VENV/bin/python" -c '' 2>/dev/null || return 1
    for extra in "$@"; do grep -qxF -- "$extra" "$STAMP" || return 1; done
}

test_packages() {
    system_package xrootd xrootd-server "the tests that read by root://"
    system_package curl curl "the tests of the published calls"
    system_package initdb postgresql "the tests on PostgreSQL"
    system_package node nodejs "the tests against an OpenID provider"
    system_package npm npm "the tests against an OpenID provider"
    system_package oidc-agent oidc-agent-cli "the tests with oidc-agent"
    system_package chromium chromium "the tests of the web pages"
    system_package wrk wrk "the benchmark of the inference service"
    system_package dockerd docker.io "the tests of jobs in containers"
    system_package iptables iptables "the tests of jobs in containers"
    system_package mmdebstrap mmdebstrap "the tests of jobs in containers"
    system_package sshd openssh-server "the tests of mlaas doctor"
    system_package certbot certbot "the tests of ACME"
    system_package pebble pebble "the tests of ACME"
    system_package apache2 apache2 "the tests of the gateway"
    apache_module mod_auth_openidc libapache2-mod-auth-openidc "the tests of the gateway"
    system_package voms-proxy-init voms-clients "the tests of the XRootD proxy"
    system_package xrdcp xrootd-client "the tests of the XRootD proxy"
    if ! compgen -G "/usr/lib/*/libXrdVoms-5.so" >/dev/null && debian_root; then
        apt_install xrootd-client-plugins xrootd-voms-plugins xrootd-scitokens-plugins || say "plugins of XRootD could not be installed: the tests of the XRootD proxy will not work"
    fi
}

main() {
    [ $# -gt 0 ] || die "usage: bootstrap.sh EXTRA... (see pyproject.toml)"
    case " $* " in *" root "* | *" test "*) system_package c++ g++ "writing std::vector branches with ROOT" ;; esac
    case " $* " in *" test "*) test_packages ;; esac
    if ready "$@"; then return; fi
    local began=$SECONDS held=()
    if [ -f "$STAMP" ]; then mapfile -t held < <(tail -n +2 "$STAMP"); fi
    usable_venv || make_venv
    mapfile -t held < <(printf '%s\n' "$@" ${held[@]+"${held[@]}"} | sort -u)
    say "installing mlaas with: ${held[*]}"
    install "${held[@]}"
    { fingerprint; printf '%s\n' "${held[@]}"; } >"$STAMP.part"
    mv "$STAMP.part" "$STAMP"
    say "ready after $((SECONDS - began)) s"
}

main "$@"
