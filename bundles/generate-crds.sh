#!/usr/bin/env bash
# Usage: generate-crds.sh [--check] [BUNDLE/VERSION...]      (default: every folder with a crds.txt)
#
# Generates BUNDLE/VERSION/crds/*.yaml from the official Go API modules that BUNDLE/VERSION/crds.txt names,
# with the controller-gen version named there. --check writes nothing and fails when the committed files differ.
# Needs Go and a module proxy. If BUNDLE/VERSION/go.sum exists, its hashes are what the modules must have.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
check=
if [ "${1:-}" = --check ]; then check=1; shift; fi
if [ $# -eq 0 ]; then
  cd "$here"
  for file in */*/crds.txt; do set -- "$@" "${file%/crds.txt}"; done
fi

# -mod=mod lets Go fill in the throw-away go.mod; nothing of the caller's workspace may leak in.
export GOFLAGS="-mod=mod -buildvcs=false" GOWORK=off CGO_ENABLED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

for target in "$@"; do
  list=$here/$target/crds.txt
  [ -f "$list" ] || { echo "error: $target/crds.txt does not exist; give BUNDLE/VERSION, such as flux/2.9.4" >&2; exit 2; }
  out=$work/$target/crds
  mkdir -p "$out"
  generator=
  count=0
  while read -r module version; do
    case $module in ''|'#'*) continue ;; esac
    if [ -z "$generator" ]; then generator="$module $version"; tool=$module; continue; fi
    count=$((count + 1))
    # One go.mod per API module: in a common one, minimal version selection would lift the Kubernetes
    # libraries of one module to those of another, and with them the generated schemas.
    dir=$work/$target/$count
    mkdir -p "$dir"
    printf 'module headwater.dev/crds\n\ngo 1.25\n\nrequire %s\nrequire %s %s\ntool %s/cmd/controller-gen\n' \
      "$generator" "$module" "$version" "$tool" > "$dir/go.mod"
    if [ -f "$here/$target/go.sum" ]; then cp "$here/$target/go.sum" "$dir/go.sum"; fi
    # Descriptions are nine tenths of a bundle's size and no controller reads them.
    (cd "$dir" && go build -o "$dir/controller-gen" "$tool/cmd/controller-gen" &&
      ./controller-gen crd:crdVersions=v1,maxDescLen=0 "paths=$module/..." output:crd:artifacts:config="$out")
  done < "$list"

  if [ -n "$check" ]; then
    if diff -ru "$here/$target/crds" "$out"; then
      echo "$target: up to date"
    else
      echo "error: $target/crds differs from what its modules generate; run bundles/generate-crds.sh $target" >&2
      failed=1
    fi
  else
    mkdir -p "$here/$target/crds"
    rm -f "$here/$target/crds"/*.yaml
    cp "$out"/*.yaml "$here/$target/crds/"
    echo "$target: $(find "$out" -name '*.yaml' | wc -l) CRDs"
  fi
done
exit $failed
