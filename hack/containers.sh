# Containers with whatever engine there is: Docker if it runs, else podman, which is installed where it may be. Sourced by bash
# after lib.sh; sets $engine.

container_packages=(podman=podman runc=runc mmdebstrap=mmdebstrap)
base=docker.io/library/debian:bookworm-slim # what the Dockerfiles begin from

set_up_engine() {
  if docker info >/dev/null 2>&1; then
    engine=docker
    return
  fi
  set_up_packages "${container_packages[@]}"
  command -v podman >/dev/null || fail "needs Docker or podman"
  engine=podman
  [ -n "${CONTAINERS_CONF:-}" ] || podman_works || export CONTAINERS_CONF=$root/hack/containers.conf
}

# podman's own settings need cgroups and limits that some machines (containers, mostly) do not have.
podman_works() {
  podman image exists "$base" || return 0
  timeout 60 podman run --rm --pull=never "$base" true >/dev/null 2>&1
}

# The image that the Dockerfiles begin from: there, pulled, or made of Debian's packages where no registry can be reached.
set_up_base() {
  "$engine" image inspect "$base" >/dev/null 2>&1 && return
  timeout 60 "$engine" pull -q "$base" >/dev/null 2>&1 && return
  step "no registry: making $base of Debian's packages" make_base
}

# As Debian makes its slim image: usr-is-merged, for the package that merges (usrmerge) brings 47 MB of Perl; and no documentation, no
# manual, no translations, now and in what is installed later (debuerreotype's .slimify-excludes). ca-certificates is ours: the
# mirror may be one over TLS.
make_base() {
  local tar path options=()
  for path in doc info groff linda lintian locale man; do
    options+=("--dpkgopt=path-exclude=/usr/share/$path/*")
  done
  options+=("--dpkgopt=path-include=/usr/share/doc/*/copyright" "--dpkgopt=path-include=/usr/share/locale/locale.alias")
  tar=$(mktemp --suffix=.tar) &&
    mmdebstrap --variant=minbase --include=ca-certificates,usr-is-merged --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
      "${options[@]}" bookworm "$tar" &&
    "$engine" import "$tar" "$base"
  local status=$?
  rm -f "$tar"
  return $status
}

# build_image NAME DOCKERFILE FILE...: build if one of the files has changed.
build_image() {
  local name=$1 dockerfile=$2 digest
  shift 2
  digest=$(cd "$root" && cat "$dockerfile" .dockerignore $(git ls-files --cached --others --exclude-standard -- "$@") | sha256sum | cut -c 1-16)
  if [ "$("$engine" image inspect -f '{{index .Config.Labels "ovnagent.sources"}}' "$name" 2>/dev/null)" != "$digest" ]; then
    step "building the image $name" run_build "$name" "$dockerfile" "$digest"
  fi
  printf '%s: %d MB\n' "$name" $(($("$engine" image inspect -f '{{.Size}}' "$name") / 1000000))
}

# This machine's mirrors and certificates serve the build, and stay out of the image.
run_build() {
  local name=$1 dockerfile=$2 digest=$3 options=(--label "ovnagent.sources=$digest") pip_conf status=0
  pip_conf=$(mktemp)
  if [ "$engine" = podman ]; then
    options+=(--format docker --isolation chroot --network host --pull=never)
    local key value
    echo "[global]" >"$pip_conf"
    for key in cert index-url extra-index-url find-links; do
      value=$("$python" -m pip config get "global.$key" 2>/dev/null || true)
      local variable=PIP_${key^^}
      variable=${variable//-/_}
      value=${!variable:-$value}
      [ -n "$value" ] || continue
      echo "$key = $value" >>"$pip_conf"
      [ ! -e "$value" ] || options+=(--volume "$value:$value:ro")
    done
    options+=(--volume "$pip_conf:/etc/pip.conf:ro")
  fi
  (cd "$root" && "$engine" build "${options[@]}" -t "$name" -f "$dockerfile" .) || status=$?
  rm -f "$pip_conf"
  return $status
}

build_agent() {
  build_image localhost/ovnagent:latest docker/agent/Dockerfile docker/agent/check.py ovnagent pyproject.toml requirements.lock README.md
}

build_sandbox() {
  build_image localhost/ovn-sandbox:latest docker/ovn-sandbox/Dockerfile hack/lab/ovn.py hack/lab/process.py hack/lab/sandbox.py
}
