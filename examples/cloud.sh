#!/bin/sh
# Nodes as machines of a cloud, for `provider = "command"`: ./cloud.sh create | start | stop | destroy
#
# Written for Amazon EC2 and its `aws` command; for another cloud, change the five functions below. The rules:
# exit status 0 means accepted, the machine may boot later; any other status means refused, and what was printed
# is the reason; each command may be run again for the same node, and must then do no harm.
#
# The launch template names the machine image (with rtcbridge, the model and the unit of run-the-service.md),
# the kind of machine, the network and the permissions.
set -eu
: "${RTCBRIDGE_NODE:?is set by the bridge}" "${RTCBRIDGE_POOL:?}" "${RTCBRIDGE_URL:?}" "${RTCBRIDGE_NODE_TOKEN:?}"
template=${LAUNCH_TEMPLATE:-rtcbridge-node}

# Prints "id state" of this node's machine, or nothing. The tag is the node's id.
find_machine() {
    aws ec2 describe-instances --output text --query 'Reservations[].Instances[].[InstanceId, State.Name]' \
        --filters "Name=tag:rtcbridge-node,Values=$RTCBRIDGE_NODE" \
        "Name=instance-state-name,Values=pending,running,stopping,stopped"
}

# Runs as root at the machine's first boot. The token is this node's own and good for nothing else.
first_boot() {
    cat <<END
#!/bin/sh
umask 077
cat >/etc/rtcbridge.env <<ENV
RTCBRIDGE_NODE=$RTCBRIDGE_NODE
RTCBRIDGE_POOL=$RTCBRIDGE_POOL
RTCBRIDGE_URL=$RTCBRIDGE_URL
RTCBRIDGE_NODE_TOKEN=$RTCBRIDGE_NODE_TOKEN
ENV
systemctl enable --now rtcbridge-node
END
}

# The client token makes a second call return the first one's machine, however close they follow each other.
create() {
    if [ -n "$machine" ]; then
        return
    fi
    aws ec2 run-instances --output text --query 'Instances[].InstanceId' \
        --launch-template "LaunchTemplateName=$template" --user-data "$(first_boot)" \
        --client-token "$(printf %s "$RTCBRIDGE_NODE" | sha256sum | cut -c1-64)" \
        --tag-specifications "ResourceType=instance,Tags=[{Key=rtcbridge-node,Value=$RTCBRIDGE_NODE}]"
}

# A machine that is still stopping cannot be started; the bridge's `start_timeout` bounds this wait.
start() {
    [ "$state" != stopping ] || aws ec2 wait instance-stopped --instance-ids "$machine"
    aws ec2 start-instances --output text --instance-ids "$machine"
}

stop() {
    aws ec2 stop-instances --output text --instance-ids "$machine"
}

destroy() {
    [ -z "$machine" ] || aws ec2 terminate-instances --output text --instance-ids "$machine"
}

found=$(find_machine)
machine=$(printf %s "$found" | cut -f1)
state=$(printf %s "$found" | cut -f2)
case ${1:-} in
create | destroy) "$1" ;;
start | stop)
    if [ -z "$machine" ]; then
        echo "no machine has the tag rtcbridge-node=$RTCBRIDGE_NODE" >&2
        exit 1
    fi
    "$1"
    ;;
*)
    echo "usage: $0 create | start | stop | destroy" >&2
    exit 2
    ;;
esac
