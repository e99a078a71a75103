#!/usr/bin/env bash
# The program on a Kafka that lets nobody in without a proof: Apache Kafka (Java 17 and Maven) with TLS, passwords,
# clients' certificates and access rights. confluent-kafka and pyarrow, from PyPI, go to a virtual environment in the
# target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/target}
program=${MILLRACE:-$target/release/millrace}
venv=$target/test-secure-kafka
port=${KAFKA_PORT:-15600} # and the six after it, of which the fourth and the fifth are the program's own
work=$(mktemp -d)
trap 'scripts/kafka.sh kill "$work/kafka" || true; rm -rf "$work"' EXIT

python3 -m venv "$venv"
"$venv/bin/pip" -q install 'confluent-kafka==2.*' pyarrow

# Drawn anew each time, so that a search finds them where they leaked, and nowhere else.
SCRAM_PASSWORD=$(openssl rand -hex 12) PLAIN_PASSWORD=$(openssl rand -hex 12) KEY_PASSWORD=$(openssl rand -hex 12)
export SCRAM_PASSWORD PLAIN_PASSWORD KEY_PASSWORD

authority() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}

certificate() {
  openssl req -new -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
    -extfile <(echo 'subjectAltName=IP:127.0.0.1') -out "$1.pem" 2>/dev/null
}

(
  cd "$work"
  authority authority
  authority stranger
  certificate broker
  certificate bank
  cat broker.key broker.pem >keystore.pem
  openssl pkcs8 -topk8 -in bank.key -passout env:KEY_PASSWORD -out bank.locked.key
)

# The checks look on through the listener without security, as ANONYMOUS; nobody else uses it.
at=127.0.0.1
open=PLAINTEXT://$at:$port
secure=PASSWORDS://$at:$((port + 2)),CERTIFICATES://$at:$((port + 3)),CLEAR://$at:$((port + 6))
scram=org.apache.kafka.common.security.scram.ScramLoginModule
plain=org.apache.kafka.common.security.plain.PlainLoginModule
cat >"$work/security.properties" <<PROPERTIES
listeners=$open,CONTROLLER://$at:$((port + 1)),$secure
advertised.listeners=$open,$secure
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORDS:SASL_SSL,CERTIFICATES:SSL,CLEAR:SASL_PLAINTEXT
listener.name.passwords.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.passwords.scram-sha-512.sasl.jaas.config=$scram required;
listener.name.passwords.plain.sasl.jaas.config=$plain required user_shop="$PLAIN_PASSWORD";
listener.name.clear.sasl.enabled.mechanisms=PLAIN
listener.name.clear.plain.sasl.jaas.config=$plain required user_shop="$PLAIN_PASSWORD";
listener.name.certificates.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location=$work/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$work/authority.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
PROPERTIES

export KAFKA_PROPERTIES=$work/security.properties
scripts/kafka.sh start "$work/kafka" "$port"
"$venv/bin/python" scripts/test-secure-kafka.py "$program" "$work" "$port"
