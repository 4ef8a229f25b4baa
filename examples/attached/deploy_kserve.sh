#!/bin/sh
# deploy_kserve.sh GROUP FOLDER NAME URL…: what hook.py runs where KServe deploys the servers.
set -eu
sed -e "s|GROUP|$1|" -e "s|FOLDER|$2|" -e "s|NAME\$|$3|" "$(dirname "$0")/inference-service.yaml" | kubectl apply -f -
