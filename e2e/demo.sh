#!/usr/bin/env bash
# `make demo`: three real clusters and a registry on this machine; takes one over from `flux bootstrap`, installs Flux on the others, upgrades
# all, refuses a bundle that was tampered with, rolls back one that fails, removes, and shows it.
# KEEP=1 leaves everything running; `make bed-down` ends it.
# BED_KUBECONFIGS=a:b:c uses three clusters of your own (hub first; kind, or any other that this machine reaches) instead.
set -euo pipefail
cd "$(dirname "$0")/.."

KEEP=${KEEP:-}
CARGO=${CARGO:-cargo}
TARGET=${CARGO_TARGET_DIR:-target}
case $TARGET in /*) ;; *) TARGET=$PWD/$TARGET ;; esac
HEADWATER=$TARGET/debug/headwater
BED=$TARGET/debug/bed
NAMESPACE=headwater-system
COLUMNS_OF_STATUS='{.metadata.name}{"|"}{.status.conditions[?(@.type=="Ready")].status}{"|"}{.status.applied.version}{"|"}{.metadata.generation}{"|"}{.status.observedGeneration}{"|"}{.status.conditions[?(@.type=="Ready")].message}{"\n"}'
# Longest wait for anything that should take seconds.
PATIENCE=90

bold='' dim='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1;36m' dim=$'\e[2m' plain=$'\e[0m'; fi

work='' operator='' bed_is_ours='' watcher='' finished=''
begin=$SECONDS

heading() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s   %s%s\n' "$dim" "$*" "$plain"; }
fail() { echo "demo: $*" >&2; exit 1; }

# Prints a command before it runs.
run() { show "$*"; "$@"; }
show() { printf '%s$%s %s\n' "$dim" "$plain" "${*//$work/.}"; }
headwater() { timeout "$PATIENCE" "$HEADWATER" "$@"; }
kubectl() { timeout "$PATIENCE" "$KUBECTL" "$@"; }

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
since() { local ms=$(($(now_ms) - $1)); printf '%3d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

finish() {
  local code=$?
  trap '' INT TERM HUP
  if [ -n "$watcher" ]; then kill "$watcher" 2>/dev/null || true; fi
  if [ "$code" != 0 ] && [ -n "$work" ] && [ -s "$work/operator.log" ]; then
    echo "demo: failed; the operator's last words:" >&2
    tail -n 15 "$work/operator.log" >&2
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

# Follows the instances live and prints each change, until all named ones are Ready at the given version.
# `go` is what is done once the watch is open.
until_ready() { # VERSION GO NAME...
  local version=$1 go=$2; shift 2
  local -A missing=() last=()
  local name ready at generation observed message line started deadline
  for name in "$@"; do missing[$name]=1; done
  coproc WATCH { exec "$KUBECTL" get fluxinstances -n "$NAMESPACE" --watch -o "jsonpath=$COLUMNS_OF_STATUS"; }
  watcher=$WATCH_PID
  local from=${WATCH[0]}
  started=$(now_ms)
  "$go"
  deadline=$((SECONDS + PATIENCE))
  while [ ${#missing[@]} -gt 0 ]; do
    [ $SECONDS -lt $deadline ] || { kubectl get fluxinstances -n "$NAMESPACE" >&2; fail "not Ready within $PATIENCE s: ${!missing[*]}"; }
    if IFS= read -r -t 1 -u "$from" line; then :; elif [ $? -le 128 ]; then fail "the watch ended"; else continue; fi
    IFS='|' read -r name ready at generation observed message <<<"$line"
    [ -n "${missing[$name]:-}" ] || continue
    [ -n "$ready" ] || continue
    if [ "${last[$name]:-}" != "$ready|$at|$message" ]; then
      printf '  %s  %-4s Ready=%-7s %-6s %s\n' "$(since "$started")" "$name" "$ready" "$at" "$message"
      last[$name]="$ready|$at|$message"
    fi
    if [ "$ready" = True ] && [ "$at" = "$version" ] && [ "$generation" = "$observed" ]; then unset "missing[$name]"; fi
  done
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  watcher=''
}

wait_for() { # WHAT COMMAND...
  local what=$1 deadline=$((SECONDS + PATIENCE)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within $PATIENCE s"
    sleep 0.2
  done
}

instance() { # NAME VERSION
  cat <<YAML
apiVersion: headwater.dev/v1alpha1
kind: FluxInstance
metadata: {name: $1, namespace: $NAMESPACE}
spec:
YAML
  [ "$1" = hub ] || echo "  kubeConfig: {secretRef: {name: $1-kubeconfig}}"
  cat <<YAML
  distribution:
    artifact: oci://$REGISTRY/headwater/flux
    insecure: true    # the registry of this demo speaks plain HTTP
    verify: {secretRef: {name: bundle-keys}}
    version: "$2"
YAML
  # Only the cluster us syncs anything in this demo.
  if [ "$1" = us ] && [ -n "$syncs" ]; then
    echo "  sync: {kind: OCIRepository, url: \"oci://$REGISTRY/fleet/us\", ref: latest, insecure: true, interval: 30s}"
  fi
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
heading 'Three clusters and a registry'
bed_is_ours=1
# Not to be cut off half-way by Ctrl-C: what has started must be known to be ended. SIGTERM stays as it is: it ends the bed.
own=() clusters=3
if [ -n "${BED_KUBECONFIGS:-}" ]; then
  IFS=: read -ra own <<<"$BED_KUBECONFIGS"
  [ ${#own[@]} = 3 ] || fail "BED_KUBECONFIGS: expected three kubeconfigs (hub:eu:us), found ${#own[@]}"
  clusters=0
fi
(trap '' INT HUP; exec "$BED" up --clusters "$clusters" --kind flux --registry) >"$work/bed.txt" || { cat "$work/bed.txt"; fail 'the clusters did not start'; }
KUBECTL=$(sed -n 's/^kubectl: *//p' "$work/bed.txt")
REGISTRY=$(sed -n 's/^registry: *\([^ ]*\).*/\1/p' "$work/bed.txt")
mapfile -t files < <(sed -n 's/^ *kubeconfig: *//p' "$work/bed.txt")
files=("${own[@]}" "${files[@]}")
contexts=(hub eu us)
umask 077
for i in 0 1 2; do
  name=${contexts[i]}
  part() { kubectl --kubeconfig "${files[i]}" config view --minify --flatten --raw -o "jsonpath=$1"; }
  cat >"$work/$name.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: $name, cluster: $(part '{.clusters[0].cluster}')}]
users: [{name: $name-admin, user: $(part '{.users[0].user}')}]
contexts: [{name: $name, context: {cluster: $name, user: $name-admin}}]
YAML
done
KUBECONFIG=$work/hub.kubeconfig:$work/eu.kubeconfig:$work/us.kubeconfig kubectl config view --flatten --raw >"$work/kubeconfig"
export KUBECONFIG=$work/kubeconfig
kubectl config use-context hub >/dev/null
for context in "${contexts[@]}"; do
  show "kubectl --context $context get nodes,deployments -A"
  kubectl --context "$context" get nodes,deployments -A 2>&1
done
note "real kube-apiserver, etcd and controller-manager; the real source-, kustomize- and notification-controller run as processes, all else in name only"

heading 'Bundles: build, push, sign'
run headwater bundle build bundles/flux --output "$work/dist"
run headwater bundle push "$work"/dist/*.tar.gz --to "oci://$REGISTRY/headwater/flux" --insecure
COSIGN=$("$BED" tool cosign)
# It looks for the public Sigstore and warns that there is none; nothing here needs one.
cosign() { (cd "$work" && COSIGN_PASSWORD="" timeout "$PATIENCE" "$COSIGN" "$@" 2> >(grep -v "^WARNING" >&2)); }
run cosign generate-key-pair
# Behind an air gap: a key, and no service that logs or vouches.
cat >"$work/offline.json" <<'JSON'
{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "caUrls": [], "oidcUrls": [], "rekorTlogUrls": [],
 "rekorTlogConfig": {"selector": "ANY"}, "tsaUrls": [], "tsaConfig": {"selector": "ANY"}}
JSON
headwater bundle list "oci://$REGISTRY/headwater/flux" --insecure -o json >"$work/bundles.json"
for digest in $(sed -n 's/.*"digest": "\(.*\)".*/\1/p' "$work/bundles.json"); do
  run cosign sign --key cosign.key --signing-config offline.json --allow-http-registry --yes "$REGISTRY/headwater/flux@$digest"
done
run headwater bundle list "oci://$REGISTRY/headwater/flux" --insecure
run headwater bundle verify "oci://$REGISTRY/headwater/flux" --insecure --version 2.9.4 --key "$work/cosign.pub"
code=0
headwater bundle diff "$work/dist/flux-2.8.8.tar.gz" "$work/dist/flux-2.9.4.tar.gz" >"$work/changes.txt" || code=$?
[ "$code" -le 1 ] || fail 'headwater bundle diff failed'
show "headwater bundle diff $work/dist/flux-2.8.8.tar.gz $work/dist/flux-2.9.4.tar.gz"
head -n 24 "$work/changes.txt"; echo "... $(wc -l <"$work/changes.txt") lines"

heading 'The hub: CRD, namespace, rights'
run kubectl apply -k crds/
run kubectl apply -f config/namespace.yaml -f config/rbac/target.yaml -f config/rbac/hub.yaml
wait_for 'the CRD is served' kubectl get fluxinstances -n "$NAMESPACE"

run kubectl create secret generic bundle-keys -n "$NAMESPACE" --from-file="$work/cosign.pub"

heading 'The remote clusters: an account with just the rights it takes, and its kubeconfig as a Secret on the hub'
for context in eu us; do
  show "headwater cluster kubeconfig $context --context $context | kubectl apply -f -"
  headwater cluster kubeconfig "$context" --context "$context" >"$work/$context-secret.yaml"
  kubectl apply -f "$work/$context-secret.yaml"
done

heading 'The operator, with the rights of config/rbac/hub.yaml and no more'
token=$(kubectl create token headwater -n "$NAMESPACE" --duration 24h)
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

# Real controllers sync only where they reach the registry of this machine.
syncs=$([ -n "${BED_KUBECONFIGS:-}" ] || echo yes)
FLUX=$("$BED" tool flux)
app() { # MESSAGE: what the cluster us syncs
  mkdir -p "$work/us"
  printf '{apiVersion: v1, kind: ConfigMap, metadata: {name: app, namespace: default}, data: {message: "%s"}}\n' "$1" >"$work/us/app.yaml"
  run flux push artifact "oci://$REGISTRY/fleet/us:latest" --path "$work/us" --source demo --revision "latest@sha1:$(date +%s)" --insecure-registry
}
flux() { timeout "$PATIENCE" "$FLUX" "$@" 2>&1; }
message() { kubectl --context us get configmap app -o 'jsonpath={.data.message}'; }
says() { [ "$(message)" = "$1" ]; }

heading 'One of the clusters has Flux already, as `flux bootstrap` leaves it'
"$BED" manifests 2.8.8 >"$work/gotk.yaml"
as_flux() { kubectl --context us apply --server-side --force-conflicts --field-manager flux -f "$1"; }
show 'flux bootstrap    # its manifests and its root Kustomization, under its field manager'
wait_for 'the manifests of flux are applied' as_flux "$work/gotk.yaml"
if [ -n "$syncs" ]; then
  mkdir -p "$work/us"; cp "$work/gotk.yaml" "$work/us/gotk-components.yaml"
  app one
  cat >"$work/us/gotk-sync.yaml" <<YAML
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: flux-system, namespace: flux-system}
spec: {interval: 5s, url: "oci://$REGISTRY/fleet/us", insecure: true, ref: {tag: latest}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux-system, namespace: flux-system}
spec: {interval: 10s, path: ./, prune: true, sourceRef: {kind: OCIRepository, name: flux-system}}
YAML
  wait_for 'the root Kustomization is applied' as_flux "$work/us/gotk-sync.yaml"
  wait_for 'the cluster syncs' says one
fi
standing() { run kubectl --context us get deployments -n flux-system -o 'custom-columns=NAME:.metadata.name,UID:.metadata.uid,GENERATION:.metadata.generation,IMAGE:.spec.template.spec.containers[*].image'; }
standing
show 'headwater migrate --context us --name us --kubeconfig-secret us-kubeconfig --dry-run'
headwater migrate --context us --name us --kubeconfig-secret us-kubeconfig --dry-run

heading 'What would happen? `headwater diff` prints the plan the operator will execute'
instance hub 2.8.x >"$work/hub.yaml"
instance eu 2.8.8 >"$work/eu.yaml"
instance us 2.8.8 >"$work/us.yaml"
run cat "$work/hub.yaml"
diff_of() { # exits with 1 when something would change, as diff does
  show "headwater diff -f $1"
  local code=0
  headwater diff -f "$1" >"$work/diff.txt" || code=$?
  [ "$code" -le 1 ] || fail 'headwater diff failed'
  if [ "$(wc -l <"$work/diff.txt")" -gt 16 ]; then
    head -n 11 "$work/diff.txt"; echo "... $(($(wc -l <"$work/diff.txt") - 14)) more lines"; tail -n 3 "$work/diff.txt"
  else
    cat "$work/diff.txt"
  fi
}
diff_of "$work/hub.yaml"
diff_of "$work/eu.yaml"

heading 'Install Flux on all three'
create() { run kubectl apply -f "$work/hub.yaml" -f "$work/eu.yaml" -f "$work/us.yaml"; }
until_ready 2.8.8 create hub eu us
run kubectl get fluxinstances -n "$NAMESPACE"
note 'us was taken over: the same objects, and no Deployment restarted'
standing
show "kubectl get events -n $NAMESPACE    # of us"
kubectl get events -n "$NAMESPACE" -o 'custom-columns=ABOUT:.involvedObject.name,REASON:.reason,MESSAGE:.message' | grep -E '^us .*TakenOver' | cut -c1-200

heading 'Upgrade: the hub by a wider range, the others by their version'
instance hub 2.x >"$work/hub.yaml"
instance eu 2.9.4 >"$work/eu.yaml"
instance us 2.9.4 >"$work/us.yaml"
diff_of "$work/hub.yaml"
diff_of "$work/us.yaml"
upgrade() { create; }
until_ready 2.9.4 upgrade hub eu us
run kubectl get fluxinstances -n "$NAMESPACE"

heading 'A bundle that somebody tampered with: the same version under a new number, with images from elsewhere'
cp -r bundles/flux "$work/tampered"
mv "$work/tampered/2.9.4" "$work/tampered/2.9.5"
sed -i 's/^version: 2\.9\.4/version: 2.9.5/' "$work/tampered/2.9.5/version.yaml"
sed -i 's|registry: ghcr.io/fluxcd|registry: ghcr.example/not-fluxcd|' "$work/tampered/bundle.yaml"
run headwater bundle build "$work/tampered" --version 2.9.5 --output "$work/dist"
run headwater bundle push "$work/dist/flux-2.9.5.tar.gz" --to "oci://$REGISTRY/headwater/flux" --insecure
instance us 2.9.5 >"$work/us.yaml"
run kubectl apply -f "$work/us.yaml"
refused() { kubectl get fluxinstance us -n "$NAMESPACE" -o 'jsonpath={.status.conditions[?(@.type=="Verified")].reason}' | grep -qx ArtifactUnverified; }
wait_for 'the bundle is refused' refused
show "kubectl get fluxinstance us -n $NAMESPACE -o jsonpath='{.status.conditions}'"
kubectl get fluxinstance us -n "$NAMESPACE" \
  -o 'jsonpath={range .status.conditions[*]}{.type}{"="}{.status}{"  "}{.reason}{"  "}{.message}{"\n"}{end}' | grep -E '^(Ready|Verified)'
note 'Flux 2.9.4 runs on:'
run kubectl --context us get deployments -n flux-system -o 'custom-columns=NAME:.metadata.name,READY:.status.readyReplicas,IMAGE:.spec.template.spec.containers[*].image'
instance us 2.9.4 >"$work/us.yaml"
back() { run kubectl apply -f "$work/us.yaml"; }
until_ready 2.9.4 back us

heading 'An upgrade that fails: signed as it should be, but its images cannot be pulled'
sed -i 's/^version: 2\.9\.5/version: 2.9.6/; s/^appVersion: .*/appVersion: v2.9.6/' "$work/tampered/2.9.5/version.yaml"
mv "$work/tampered/2.9.5" "$work/tampered/2.9.6"
sed -i 's|registry: ghcr.example/not-fluxcd|registry: registry.example/pull-fails|' "$work/tampered/bundle.yaml"
run headwater bundle build "$work/tampered" --version 2.9.6 --output "$work/dist"
run headwater bundle push "$work/dist/flux-2.9.6.tar.gz" --to "oci://$REGISTRY/headwater/flux" --insecure
broken=$(headwater bundle list "oci://$REGISTRY/headwater/flux" --insecure -o json | tr -d '\n' | sed 's/.*"digest": "\([^"]*\)",[^}]*"version": "2.9.6".*/\1/')
run cosign sign --key cosign.key --signing-config offline.json --allow-http-registry --yes "$REGISTRY/headwater/flux@$broken"
instance us 2.9.6 | sed 's/^spec:/spec:\n  timeout: 15s/' >"$work/us.yaml"
started=$(now_ms)
run kubectl apply -f "$work/us.yaml"
of_ready() { kubectl get fluxinstance us -n "$NAMESPACE" -o "jsonpath={.status.conditions[?(@.type==\"Ready\")].$1}"; }
is() { [ "$(of_ready reason)" = "$1" ]; }
wait_for 'the upgrade is rolled back' is RolledBack
note "rolled back after$(since "$started"), by itself:"
of_ready message; echo
standing
if [ -n "$syncs" ]; then
  note 'the cluster goes on syncing:'
  app two
  wait_for 'the sync goes on' says two
  run kubectl --context us get configmap app -o 'jsonpath={.data.message}'; echo
fi
instance us 2.9.4 >"$work/us.yaml"
until_ready 2.9.4 back us

heading 'History'
for context in "${contexts[@]}"; do
  show "kubectl get fluxinstance $context -n $NAMESPACE -o jsonpath='{.status.history}'"
  kubectl get fluxinstance "$context" -n "$NAMESPACE" \
    -o 'jsonpath={range .status.history[*]}{.started}{"  "}{.finished}{"  "}{.version}{"  "}{.outcome}{"  "}{.digest}{"\n"}{end}'
done
show "kubectl get events -n $NAMESPACE"
kubectl get events -n "$NAMESPACE" --sort-by=.metadata.creationTimestamp \
  -o 'custom-columns=ABOUT:.involvedObject.name,TYPE:.type,REASON:.reason,MESSAGE:.message' | cut -c1-170

heading 'Remove Flux from one cluster'
run kubectl patch fluxinstance us -n "$NAMESPACE" --type merge -p '{"spec":{"deletionPolicy":"Uninstall"}}'
started=$(now_ms)
run kubectl delete fluxinstance us -n "$NAMESPACE" --timeout="${PATIENCE}s"
note "gone after$(since "$started")"
run kubectl --context us get namespaces,crds
run kubectl --context us get all,serviceaccounts,roles,rolebindings,configmaps -n flux-system 2>&1
note "The namespace flux-system stays: \`headwater cluster kubeconfig\` had made it, with the operator's account and rights,"
note "before Flux came, and only what an installation made itself is removed. CRDs stay while objects of them exist; here"
note "there were none. Without Uninstall (the default is Orphan) all of Flux would have been left running."
run kubectl get fluxinstances -n "$NAMESPACE"

finished=1
heading "Done in $((SECONDS - begin)) s, $((SECONDS - begin_built)) s of them after building"
if [ -n "$KEEP" ]; then
  echo 'Everything is left running. Look around:'
else
  echo 'Everything is taken down now. `make demo KEEP=1` leaves it running, to look around:'
fi
cat <<TEXT

  export PATH=$(dirname "$KUBECTL"):$TARGET/debug:\$PATH
  export KUBECONFIG=$work/kubeconfig                 # contexts: hub, eu, us
  kubectl get fluxinstances -n $NAMESPACE -w
  kubectl describe fluxinstance eu -n $NAMESPACE
  kubectl --context eu get deployments -n flux-system
  kubectl --context eu delete deployment source-controller -n flux-system     # and see it come back
  kubectl edit fluxinstance eu -n $NAMESPACE
  headwater diff -f $work/hub.yaml
  headwater bundle inspect oci://$REGISTRY/headwater/flux --insecure
  tail -f $work/operator.log
  exec 3<>/dev/tcp/127.0.0.1/$metrics; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3    # or curl

  make bed-down      # ends the operator, the clusters and the registry
TEXT
