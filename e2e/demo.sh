#!/usr/bin/env bash
# `make demo`: a hub, five member clusters and a registry on this machine. One cluster is taken over from `flux bootstrap`, Flux is installed on
# the others; then a fleet moves them in stages, waits for an approval, meets a broken cluster, stops, refuses what nobody signed, is put right
# by a new bundle, and completes; a cluster that was unreachable all the time comes back and catches up.
# KEEP=1 leaves everything running; `make bed-down` ends it.
set -euo pipefail
cd "$(dirname "$0")/.."

KEEP=${KEEP:-}
CARGO=${CARGO:-cargo}
TARGET=${CARGO_TARGET_DIR:-target}
case $TARGET in /*) ;; *) TARGET=$PWD/$TARGET ;; esac
HEADWATER=$TARGET/debug/headwater
BED=$TARGET/debug/bed
NAMESPACE=headwater-system
# Longest wait for anything that should take seconds.
PATIENCE=${PATIENCE:-120}
# In the order in which the bed numbers them.
CLUSTERS=(hub eu-1 eu-2 us-1 us-2 ap-1)
MEMBERS=("${CLUSTERS[@]:1}")
# Flux runs on eu-1: its controllers are processes. The others have a node in name only, on which Deployments roll out or fail.
KINDS=plain,flux,light
INSTANCE_COLUMNS='{.metadata.name}{"|"}{.status.conditions[?(@.type=="Ready")].status}{"|"}{.status.applied.version}{"|"}{.metadata.generation}{"|"}{.status.observedGeneration}{"|"}{.status.conditions[?(@.type=="Ready")].message}{"\n"}'
FLEET_COLUMNS='{.status.phase}{"|"}{.status.progress}{"|"}{.status.target.version}{"|"}{.metadata.generation}{"|"}{.status.observedGeneration}{"|"}{.status.message}{"\n"}'

bold='' dim='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1;36m' dim=$'\e[2m' plain=$'\e[0m'; fi

work='' operator='' bed_is_ours='' watcher='' finished=''
begin=$SECONDS

heading() { printf '\n%s== %d:%02d  %s%s\n' "$bold" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)) "$*" "$plain"; }
note() { printf '%s   %s%s\n' "$dim" "$*" "$plain"; }
fail() { echo "demo: $*" >&2; exit 1; }

# Prints a command before it runs.
run() { show "$*"; "$@"; }
show() { printf '%s$%s %s\n' "$dim" "$plain" "${*//$work/.}"; }
short() { sed -E 's/(sha256:[0-9a-f]{8})[0-9a-f]{56}/\1…/g'; }
headwater() { timeout "$PATIENCE" "$HEADWATER" "$@"; }
kubectl() { timeout "$PATIENCE" "$KUBECTL" "$@"; }
cluster_number() { # NAME
  local i
  for i in "${!CLUSTERS[@]}"; do [ "${CLUSTERS[i]}" != "$1" ] || echo $((i + 1)); done
}

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
since() { local ms=$(($(now_ms) - $1)); printf '%3d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

finish() {
  local code=$?
  trap '' INT TERM HUP
  if [ -n "$watcher" ]; then kill "$watcher" 2>/dev/null || true; fi
  if [ "$code" != 0 ] && [ -n "$work" ] && [ -s "$work/operator.log" ]; then
    {
      echo 'demo: failed; what there is:'
      PATIENCE=10
      kubectl get fluxfleets,fluxinstances -n "$NAMESPACE" || true
      headwater fleet status prod -n "$NAMESPACE" || true
      echo "demo: the operator's last words:"
      tail -n 15 "$work/operator.log" | cut -c1-400
    } >&2
  fi
  if [ -n "$KEEP" ] && [ -n "$finished" ]; then return; fi
  if [ -n "$operator" ] && kill "$operator" 2>/dev/null; then
    for _ in {1..100}; do kill -0 "$operator" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$operator" 2>/dev/null || true
  fi
  if [ -n "$bed_is_ours" ]; then "$BED" down >/dev/null || echo 'demo: the clusters could not be ended; see `make bed-down`' >&2; fi
  if [ -n "$work" ]; then rm -rf "$work"; fi
  [ "$code" = 0 ] || echo "demo: everything was taken down" >&2
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

wait_for() { # WHAT COMMAND...
  local what=$1 deadline=$((SECONDS + PATIENCE)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within $PATIENCE s"
    sleep 0.2
  done
}

expect() { # WHAT WANTED FOUND
  [ "$3" = "$2" ] || fail "$1: expected \"$2\", found \"$3\""
}

# Opens a watch, does GO, and gives every line of the watch to SEES, until that says that the end is there.
follow() { # WHAT COLUMNS GO SEES
  local what=$1 columns=$2 go=$3 sees=$4 line from started deadline
  coproc WATCH { exec "$KUBECTL" get "$what" -n "$NAMESPACE" --watch -o "jsonpath=$columns"; }
  watcher=$WATCH_PID
  from=${WATCH[0]}
  started=$(now_ms)
  "$go"
  deadline=$((SECONDS + PATIENCE))
  while :; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within $PATIENCE s"
    if IFS= read -r -t 1 -u "$from" line; then :; elif [ $? -le 128 ]; then fail "the watch ended"; else continue; fi
    if "$sees" "$started" "$line"; then break; fi
  done
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  watcher=''
}

# Prints each change of the instances, until all of them are Ready at a version.
declare -A missing=() last=()
until_ready() { # VERSION GO NAME...
  local version=$1 go=$2 name; shift 2
  missing=() last=()
  for name in "$@"; do missing[$name]=1; done
  sees_instance() { # STARTED LINE
    local name ready at generation observed message
    IFS='|' read -r name ready at generation observed message <<<"$2"
    if [ -n "$ready" ] && [ "${last[$name]:-}" != "$ready|$at|$message" ]; then
      printf '  %s  %-4s Ready=%-7s %-6s %s\n' "$(since "$1")" "$name" "$ready" "$at" "$message"
      last[$name]="$ready|$at|$message"
    fi
    if [ "$ready" = True ] && [ "$at" = "$version" ] && [ "$generation" = "$observed" ]; then unset "missing[$name]"; fi
    [ ${#missing[@]} = 0 ]
  }
  follow fluxinstances "$INSTANCE_COLUMNS" "$go" sees_instance
}

# Prints each change of the fleet, until it is in a phase with a target and so many clusters are done.
until_phase() { # PHASE PROGRESS VERSION GO
  local wanted=$1 wanted_progress=$2 version=$3 told=''
  sees_fleet() { # STARTED LINE
    local phase progress target generation observed message
    IFS='|' read -r phase progress target generation observed message <<<"$2"
    if [ -n "$phase" ] && [ "$told" != "$phase|$message" ]; then
      printf '  %s  %-16s %s  %s\n' "$(since "$1")" "$phase" "$progress" "$(short <<<"$message")"
      told="$phase|$message"
    fi
    [ "$phase|$progress|$target|$generation" = "$wanted|$wanted_progress|$version|$observed" ]
  }
  follow fluxfleets "$FLEET_COLUMNS" "$4" sees_fleet
}

# The images that run on the clusters themselves.
images() { kubectl --context "$1" get deployment source-controller -n flux-system -o 'jsonpath={.spec.template.spec.containers[0].image}'; }
show_images() { # NAME...
  local name
  show 'for c in '"$*"'; do kubectl --context $c get deployment source-controller -n flux-system -o jsonpath=...image; done'
  for name in "$@"; do printf '%s  %s\n' "$name" "$(images "$name" | short)"; done
}
status() { run headwater fleet status prod | short; }
version_on() { kubectl get fluxinstance "$1" -o 'jsonpath={.status.applied.version}'; }

instance() { # NAME LABELS
  cat <<YAML
apiVersion: headwater.dev/v1alpha1
kind: FluxInstance
metadata: {name: $1, namespace: $NAMESPACE, labels: {$2}}
spec:
  kubeConfig: {secretRef: {name: $1-kubeconfig}}
  admission: Self
  distribution:
    artifact: oci://$REGISTRY/headwater/flux
    insecure: true    # the registry of this demo speaks plain HTTP
    verify: {secretRef: {name: bundle-keys}}
    version: "2.8.8"
  timeout: $3
YAML
  # Only eu-1 syncs anything in this demo.
  [ "$1" != eu-1 ] || echo "  sync: {kind: OCIRepository, url: \"oci://$REGISTRY/fleet/eu-1\", ref: latest, insecure: true, interval: 30s}"
  echo ---
}

answers() { # PORT PATH
  local status
  exec {page}<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n' "$2" >&"$page"
  IFS= read -r -t 5 status <&"$page" || status=''
  exec {page}>&-
  [[ $status == *' 200 '* ]]
}

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
  done
}

heading 'Build what is missing'
"$CARGO" build --workspace --bins
if "$BED" status >/dev/null 2>&1; then fail 'clusters are up already: `make bed-down` first'; fi
"$BED" build >/dev/null
begin_built=$SECONDS

work=$(mktemp -d)
heading 'A hub, five clusters and a registry'
bed_is_ours=1
# Not to be cut off half-way by Ctrl-C: what has started must be known to be ended. SIGTERM stays as it is: it ends the bed.
(trap '' INT HUP; exec "$BED" up --clusters ${#CLUSTERS[@]} --kind "$KINDS" --registry) >"$work/bed.txt" || { cat "$work/bed.txt"; fail 'the clusters did not start'; }
KUBECTL=$(sed -n 's/^kubectl: *//p' "$work/bed.txt")
REGISTRY=$(sed -n 's/^registry: *\([^ ]*\).*/\1/p' "$work/bed.txt")
mapfile -t files < <(sed -n 's/^ *kubeconfig: *//p' "$work/bed.txt")
umask 077
merged=''
for i in "${!CLUSTERS[@]}"; do
  name=${CLUSTERS[i]}
  sed "s/: bed$/: $name/; s/\"admin\"$/$name-admin/" "${files[i]}" >"$work/$name.kubeconfig"
  merged=$merged:$work/$name.kubeconfig
done
KUBECONFIG=${merged#:} kubectl config view --flatten --raw >"$work/kubeconfig"
export KUBECONFIG=$work/kubeconfig
kubectl config use-context hub >/dev/null
kubectl config set-context hub --namespace "$NAMESPACE" >/dev/null
run kubectl config get-contexts -o name
run kubectl --context us-2 label node bed kubernetes.io/arch=arm64 --overwrite
note 'real kube-apiservers and etcds; on eu-1 the real source-, kustomize- and notification-controller run as processes, on the others a node'
note 'in name only says whether a Deployment came up. The node of us-2 is arm64, all others are amd64.'

heading 'Bundles: build, push, sign'
# The 2.9.4 of this demo has a fault that nobody has noticed: its images exist for one architecture only.
cp -r bundles/flux "$work/flux"
run headwater bundle build "$work/flux" --version 2.8.8 --output "$work/dist"
sed -i 's|registry: ghcr.io/fluxcd|registry: registry.example/only-amd64|' "$work/flux/bundle.yaml"
run headwater bundle build "$work/flux" --version 2.9.4 --output "$work/dist"
run headwater bundle push "$work"/dist/*.tar.gz --to "oci://$REGISTRY/headwater/flux" --insecure
COSIGN=$("$BED" tool cosign)
# It looks for the public Sigstore and warns that there is none; nothing here needs one.
cosign() { (cd "$work" && COSIGN_PASSWORD="" timeout "$PATIENCE" "$COSIGN" "$@" 2> >(grep -v "^WARNING" >&2)); }
# Behind an air gap: a key, and no service that logs or vouches.
cat >"$work/offline.json" <<'JSON'
{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "caUrls": [], "oidcUrls": [], "rekorTlogUrls": [],
 "rekorTlogConfig": {"selector": "ANY"}, "tsaUrls": [], "tsaConfig": {"selector": "ANY"}}
JSON
digest_of() { # VERSION
  headwater bundle list "oci://$REGISTRY/headwater/flux" --insecure -o json | tr -d ' \n' | tr '{' '\n' |
    grep -F "\"version\":\"$1\"" | sed 's/.*"digest":"\([^"]*\)".*/\1/'
}
sign() { # VERSION
  local digest
  digest=$(digest_of "$1")
  show "cosign sign --key cosign.key ... $REGISTRY/headwater/flux@$digest" | short
  cosign sign --key cosign.key --signing-config offline.json --allow-http-registry --yes "$REGISTRY/headwater/flux@$digest" >"$work/cosign.log" 2>&1 || { cat "$work/cosign.log"; fail 'cosign failed'; }
}
run cosign generate-key-pair
sign 2.8.8
sign 2.9.4

heading 'The hub: CRDs, rights, who has to have signed; and of each cluster the kubeconfig of an account with just the rights it takes'
run kubectl apply -k crds/
run kubectl apply -f config/namespace.yaml -f config/rbac/target.yaml -f config/rbac/hub.yaml
run kubectl create secret generic bundle-keys --from-file="$work/cosign.pub"
credentials() { # NAME
  show "headwater cluster kubeconfig $1 --context $1 | kubectl apply -f -"
  headwater cluster kubeconfig "$1" --context "$1" >"$work/$1-secret.yaml"
  kubectl apply -f "$work/$1-secret.yaml"
}
for name in "${MEMBERS[@]}"; do credentials "$name"; done

heading 'The operator, with the rights of config/rbac/hub.yaml and no more'
token=$(kubectl create token headwater --duration 24h)
kubectl config view --minify --flatten --raw >"$work/operator.kubeconfig"
kubectl --kubeconfig "$work/operator.kubeconfig" config set-credentials operator --token "$token" >/dev/null
kubectl --kubeconfig "$work/operator.kubeconfig" config set-context --current --user operator >/dev/null
kubectl --kubeconfig "$work/operator.kubeconfig" config unset users.hub-admin >/dev/null
metrics=$(free_port) health=$(free_port)
supervisor=$(sed -n 's/.*"supervisor": *\([0-9]*\).*/\1/p' "${HEADWATER_BED_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/headwater/bed}/state.json")
show "headwater operator --namespace $NAMESPACE --metrics-addr 127.0.0.1:$metrics --health-addr 127.0.0.1:$health &"
# In a session of its own, so that Ctrl-C reaches only this script; it ends with the clusters at the latest.
KUBECONFIG=$work/operator.kubeconfig setsid bash -c '
  "${@:2}" & child=$!
  trap "kill $child 2>/dev/null" TERM INT
  while kill -0 "$1" 2>/dev/null && kill -0 "$child" 2>/dev/null; do sleep 0.5 & wait $!; done
  kill "$child" 2>/dev/null
  wait "$child"
' operator "$supervisor" "$HEADWATER" operator --namespace "$NAMESPACE" --metrics-addr "127.0.0.1:$metrics" \
  --health-addr "127.0.0.1:$health" >"$work/operator.log" 2>&1 </dev/null &
operator=$!
wait_for 'the operator is ready' answers "$health" /readyz
note "ready; its log: $work/operator.log"

heading 'eu-1 has Flux already, as `flux bootstrap` leaves it'
FLUX=$("$BED" tool flux)
app() { # MESSAGE: what eu-1 syncs
  mkdir -p "$work/eu-1"
  printf '{apiVersion: v1, kind: ConfigMap, metadata: {name: app, namespace: default}, data: {message: "%s"}}\n' "$1" >"$work/eu-1/app.yaml"
  run flux push artifact "oci://$REGISTRY/fleet/eu-1:latest" --path "$work/eu-1" --source demo --revision "latest@sha1:$(date +%s)" --insecure-registry
}
flux() { timeout "$PATIENCE" "$FLUX" "$@" 2>&1; }
says() { [ "$(kubectl --context eu-1 get configmap app -o 'jsonpath={.data.message}')" = "$1" ]; }
as_flux() { kubectl --context eu-1 apply --server-side --force-conflicts --field-manager flux -f "$1"; }
mkdir -p "$work/eu-1"
"$BED" manifests 2.8.8 >"$work/eu-1/gotk-components.yaml"
show 'flux bootstrap    # its manifests and its root Kustomization, under its field manager'
wait_for 'the manifests of flux are applied' as_flux "$work/eu-1/gotk-components.yaml"
app one
cat >"$work/eu-1/gotk-sync.yaml" <<YAML
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: flux-system, namespace: flux-system}
spec: {interval: 5s, url: "oci://$REGISTRY/fleet/eu-1", insecure: true, ref: {tag: latest}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux-system, namespace: flux-system}
spec: {interval: 10s, path: ./, prune: true, sourceRef: {kind: OCIRepository, name: flux-system}}
YAML
wait_for 'the root Kustomization is applied' as_flux "$work/eu-1/gotk-sync.yaml"
wait_for 'the cluster syncs' says one
uids() { kubectl --context eu-1 get deployments -n flux-system -o 'jsonpath={range .items[*]}{.metadata.name}={.metadata.uid},{.metadata.generation} {end}'; }
before=$(uids)
run headwater migrate --context eu-1 --name eu-1 --kubeconfig-secret eu-1-kubeconfig --dry-run | sed '/^apiVersion/Q'
note '... and the FluxInstance that keeps everything as it is'

heading 'Flux 2.8.8 on all five: one FluxInstance each. eu-1 is taken over'
{
  instance eu-1 'env: prod, ring: canary' 2m
  instance us-1 'env: prod, ring: early' 15s    # a step that takes longer has failed; short, since a demo does not want to wait
  for name in ap-1 eu-2 us-2; do instance "$name" 'env: prod' 15s; done
} >"$work/instances.yaml"
run sed '/^---/q' "$work/instances.yaml"
create() { run kubectl apply -f "$work/instances.yaml"; }
until_ready 2.8.8 create "${MEMBERS[@]}"
run kubectl get fluxinstances
expect 'the Deployments of eu-1 are those of before' "$before" "$(uids)"
note 'eu-1 was taken over: the same Deployments, and none was restarted'

heading 'ap-1 goes away: its API server accepts connections and never answers'
"$BED" freeze "$(cluster_number ap-1)"

heading 'A fleet decides from now on: the range becomes wider, and nothing moves by that'
run sed -i 's/admission: Self/admission: Fleet/; s/version: "2.8.8"/version: "2.x"/' "$work/instances.yaml"
run kubectl apply -f "$work/instances.yaml"
sed "s|registry.example/headwater/flux|$REGISTRY/headwater/flux\n    insecure: true|; s/soak: 1h/soak: 8s/; s/soak: 24h/soak: 4s/; /^ *#/d" config/samples/fleet.yaml >"$work/fleet.yaml"
run cat "$work/fleet.yaml"
rollout() { run kubectl apply -f "$work/fleet.yaml"; }
until_phase AwaitingApproval 2/5 2.9.4 rollout
status
run headwater fleet explain prod ap-1
run headwater fleet plan prod | short

heading 'Approved: the digest that was looked at, and no other'
approve() { run headwater fleet approve prod; }
until_phase Stopped 3/5 2.9.4 approve
note 'the fleet has stopped, and us-2 went back by itself, before anybody looked:'
is_back() { [ "$(kubectl get fluxinstance us-2 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].reason}')" = RolledBack ]; }
wait_for 'us-2 is back' is_back
status
run headwater fleet explain prod us-2 | short
run kubectl get fluxinstances
show_images eu-1 eu-2 us-1 us-2
expect 'us-2 is back' 2.8.8 "$(version_on us-2)"
for name in eu-1 eu-2 us-1; do expect "$name stays" 2.9.4 "$(version_on "$name")"; done
note 'clusters need no fleet to work: the application on eu-1 is released meanwhile'
app two

heading 'A new bundle: the same Flux, with images for all architectures. Somebody forgot to sign it'
sed -i 's|registry: registry.example/only-amd64|registry: ghcr.io/fluxcd|' "$work/flux/bundle.yaml"
sed -i 's/^version: 2\.9\.4/version: 2.9.4+1/' "$work/flux/2.9.4/version.yaml"
mv "$work/flux/2.9.4" "$work/flux/2.9.4+1"
run headwater bundle build "$work/flux" --version 2.9.4+1 --output "$work/dist"
run headwater bundle push "$work/dist/flux-2.9.4_1.tar.gz" --to "oci://$REGISTRY/headwater/flux" --insecure
run sed -i 's/version: 2.9.x/version: 2.9.4+1/' "$work/fleet.yaml"
run kubectl apply -f "$work/fleet.yaml"
resolved() { kubectl get fluxfleet prod -o "jsonpath={.status.conditions[?(@.type==\"Resolved\")].$1}"; }
is_refused() { [ "$(resolved reason)" = ArtifactUnverified ]; }
wait_for 'the bundle is refused' is_refused
show "kubectl get fluxfleet prod -o jsonpath='{.status.conditions[?(@.type==\"Resolved\")].message}'"
resolved message; echo
expect 'the fleet stays where it is' Stopped "$(kubectl get fluxfleet prod -o 'jsonpath={.status.phase}')"
for name in eu-1 eu-2 us-1; do expect "$name stays" 2.9.4 "$(version_on "$name")"; done

heading 'Signed. It begins with the canary again, and the old approval is none for it'
signed() { sign 2.9.4+1; run kubectl annotate fluxfleet prod "reconcile.fluxcd.io/requestedAt=$(date +%s)"; }
until_phase AwaitingApproval 2/5 2.9.4+1 signed
until_phase Complete 4/5 2.9.4+1 approve
status
show_images eu-1 eu-2 us-1 us-2

heading 'ap-1 is back, with new credentials, and catches up'
note 'the operator asks a cluster that is down ever more rarely, every five minutes at last; a changed Secret is noticed at once'
back() { "$BED" thaw "$(cluster_number ap-1)"; credentials ap-1; }
until_phase Complete 5/5 2.9.4+1 back
run kubectl get fluxfleets
run kubectl get fluxinstances
show_images "${MEMBERS[@]}"
for name in "${MEMBERS[@]}"; do expect "$name is on the target" 2.9.4+1 "$(version_on "$name")"; done
note 'and the release of the application on eu-1 arrived:'
wait_for 'eu-1 syncs' says two
run kubectl --context eu-1 get configmap app -o 'jsonpath={.data.message}'; echo

heading 'In the morning: what happened, and why'
run headwater fleet history prod
show 'kubectl get events    # of the fleet'
kubectl get events --field-selector involvedObject.kind=FluxFleet --sort-by=.metadata.creationTimestamp \
  -o 'custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message' | short | cut -c1-180

finished=1
heading "Done in $((SECONDS - begin)) s, $((SECONDS - begin_built)) s of them after building"
if [ -n "$KEEP" ]; then
  echo 'Everything is left running. Look around:'
else
  echo 'Everything is taken down now. `make demo KEEP=1` leaves it running, to look around:'
fi
cat <<TEXT

  export PATH=$(dirname "$KUBECTL"):$TARGET/debug:\$PATH
  export KUBECONFIG=$work/kubeconfig                 # contexts: ${CLUSTERS[*]}
  headwater fleet status prod --watch
  headwater fleet rollback prod --dry-run
  kubectl describe fluxinstance us-2
  kubectl --context eu-2 get deployments -n flux-system
  kubectl --context eu-2 delete deployment source-controller -n flux-system     # and see it come back
  headwater bundle inspect oci://$REGISTRY/headwater/flux --insecure
  tail -f $work/operator.log
  exec 3<>/dev/tcp/127.0.0.1/$metrics; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3    # or curl

  make bed-down      # ends the operator, the clusters and the registry
TEXT
