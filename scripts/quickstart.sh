#!/usr/bin/env bash
# From a fresh checkout to a small model that answers: sets up .venv, then runs the recipe `quickstart`.
# Further words are settings: bash scripts/quickstart.sh train.tokens=1e6 run=short
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_environment ""
cd "$root" # so that runs/ lies in the checkout, wherever this is called from
exec "$python" -m slm.pipeline recipe=quickstart "$@"
