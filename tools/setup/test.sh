#!/bin/bash
# What the tests need. The environment and the programs that Go builds are made while Debian's packages are fetched:
# both wait for the network, and use one core each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tools/setup/packages.sh install # Python, for the environment
(tools/setup/venv.sh && .venv/bin/python -m tests.support.gotools) &
environment=$!
failed=0
{ tools/setup/packages.sh test && tools/setup/oracles.sh && tools/setup/kernel.sh; } || failed=1
wait "$environment" || failed=1
exit "$failed"
