# Set-up shared by hack/test and hack/demo (bash; source it). Everything is done once: what is there already is not done
# again. A machine needs nothing but bash, and root for what only root can install.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ovnagent
venv=$repository/.venv

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# program=package: what the lab needs beside Python. Nothing of it is started as a service.
lab_packages="ovn-nbctl=ovn-central ovn-controller=ovn-host ovs-vswitchd=openvswitch-switch ip=iproute2 ethtool=ethtool
  ping=iputils-ping qemu-system-x86_64=qemu-system-x86 busybox=busybox-static cpio=cpio openssl=openssl
  tcpdump=tcpdump git=git"

# need_packages LIST: install the packages whose programs are missing; names them where that is not possible.
need_packages() {
  local missing="" entry
  export PATH=$PATH:/usr/sbin:/sbin
  for entry in $1; do command -v "${entry%%=*}" >/dev/null 2>&1 || missing="$missing ${entry##*=}"; done
  [ -z "$missing" ] && return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed:$missing (on Debian: sudo apt-get install$missing)" >&2
    return 1
  fi
  say "installing$missing"
  # A package's postinst must not start a daemon: the lab starts its own, in its own directories.
  local policy=/usr/sbin/policy-rc.d made=""
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
  local log status=0
  log=$(mktemp)
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 || status=$?
  [ -z "$made" ] || rm -f $policy
  [ $status = 0 ] || { tail -5 "$log" >&2; echo "could not install:$missing" >&2; }
  rm -f "$log"
  return $status
}

# python_for_venv: print a Python >= 3.11 that can make virtual environments.
python_for_venv() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# need_venv: .venv with the locked dependencies and the checkout itself.
need_venv() {
  local stamp python
  stamp=$(cat "$repository/requirements.lock" "$repository/pyproject.toml" | sha256sum | cut -c1-16)
  [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ] && return 0
  if ! python=$(python_for_venv); then
    need_packages "no-python3-with-venv=python3 no-ensurepip=python3-venv" || die "Python >= 3.11 with venv is needed (package python3-venv)"
    python=$(python_for_venv) || die "Python >= 3.11 is needed"
  fi
  say "installing the locked Python dependencies into .venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$repository/requirements.lock"
  "$venv/bin/pip" install -q --disable-pip-version-check --no-deps -e "$repository"
  echo "$stamp" >"$venv/.stamp"
}

# need_lab: everything for real OVN, real Kubernetes and real guests.
need_lab() {
  need_packages "$lab_packages" || return 1
  PYTHON=$venv/bin/python "$repository/hack/kube/build" >/dev/null || return 1
  "$venv/bin/python" -m hack.lab.guest build >/dev/null || return 1
}
