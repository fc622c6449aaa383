#!/usr/bin/env bash
# Usage: generate-crds.sh [--check] [--descriptions FOLDER] [BUNDLE/VERSION...]      (default: every folder with a crds.txt)
#
# Generates BUNDLE/VERSION/crds/*.yaml from the official Go API modules that BUNDLE/VERSION/crds.txt names,
# with the controller-gen version named there. A module line with a third word, the path of a file in that module, takes
# the CRDs its makers generated and committed there: for an API that is no module of its own.
# --check writes nothing there and fails when the committed files differ.
# --descriptions makes FOLDER/BUNDLE: the same sources, but CRDs with the descriptions of their fields.
# Needs Go and a module proxy. If BUNDLE/VERSION/go.sum exists, its hashes are what the modules must have.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
check=
described=
while :; do
  case "${1:-}" in
    --check) check=1; shift ;;
    --descriptions) mkdir -p "$2"; described=$(cd "$2" && pwd); shift 2 ;;
    *) break ;;
  esac
done
if [ $# -eq 0 ]; then
  cd "$here"
  for file in */*/crds.txt; do set -- "$@" "${file%/crds.txt}"; done
fi

# As controller-gen writes it: a text follows `description:` on the same line and may go on below, deeper indented; a
# property that is called description has nothing there.
without_descriptions() {
  awk '{ indent = match($0, /[^ ]/) }
    dropping && (indent == 0 || indent > depth) { next }
    { dropping = 0 }
    /^ *description: ./ { dropping = 1; depth = indent; next }
    { print }'
}

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
  forms=("crd:crdVersions=v1,maxDescLen=0 $out")
  if [ -n "$described" ]; then
    bundle=$described/${target%%/*}
    mkdir -p "$bundle"
    rm -rf "$bundle/bundle.yaml" "$bundle/templates" "${described:?}/$target"
    cp -R "$here/${target%%/*}/bundle.yaml" "$here/${target%%/*}/templates" "$bundle/"
    cp -R "$here/$target" "$described/$target"
    rm -f "$described/$target/crds"/*.yaml
    forms+=("crd:crdVersions=v1 $described/$target/crds")
  fi
  generator=
  count=0
  while read -r module version file; do
    case $module in ''|'#'*) continue ;; esac
    if [ -z "$generator" ]; then generator="$module $version"; tool=$module; continue; fi
    count=$((count + 1))
    # One go.mod per API module: in a common one, minimal version selection would lift the Kubernetes
    # libraries of one module to those of another, and with them the generated schemas.
    dir=$work/$target/$count
    mkdir -p "$dir"
    if [ -n "$file" ]; then
      printf 'module headwater.dev/crds\n\ngo 1.25\n\nrequire %s %s\n' "$module" "$version" > "$dir/go.mod"
      if [ -f "$here/$target/go.sum" ]; then cp "$here/$target/go.sum" "$dir/go.sum"; fi
      source=$(cd "$dir" && go mod download "$module" >&2 && go list -m -f '{{.Dir}}' "$module")
      without_descriptions < "$source/$file" > "$out/${file##*/}"
      if [ -n "$described" ]; then cp "$source/$file" "$described/$target/crds/"; fi
      continue
    fi
    printf 'module headwater.dev/crds\n\ngo 1.25\n\nrequire %s\nrequire %s %s\ntool %s/cmd/controller-gen\n' \
      "$generator" "$module" "$version" "$tool" > "$dir/go.mod"
    if [ -f "$here/$target/go.sum" ]; then cp "$here/$target/go.sum" "$dir/go.sum"; fi
    (cd "$dir" && go build -o "$dir/controller-gen" "$tool/cmd/controller-gen")
    for form in "${forms[@]}"; do
      (cd "$dir" && ./controller-gen "${form%% *}" "paths=$module/..." output:crd:artifacts:config="${form#* }")
    done
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
