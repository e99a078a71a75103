#!/usr/bin/env bash
# A real Apache Kafka for the tests: one broker in KRaft mode, on the loopback, with its data in a folder of
# the caller's. The jars come from Maven Central; Docker is not needed.
#
#   kafka.sh fetch             bring the jars to the cache (done once; `start` does it too)
#   kafka.sh start DIR PORT    format DIR/data if it is new, start the broker, return when it answers
#   kafka.sh stop DIR          a clean shutdown
#   kafka.sh kill DIR          kill -9, as a crash would
#   kafka.sh restart DIR       stop it if it runs, and start it again on the same data and port
#   kafka.sh topics DIR        the broker's topics, one a line, asked with Kafka's own client
#
# DIR gets server.properties, data/, kafka.pid and kafka.log. Clients use 127.0.0.1:PORT; the controller
# takes PORT+1. No topic is made by itself: a test creates what it uses.
#
# Exit codes: 0 done, 1 failed, 2 wrong usage, 3 skipped: there is no Java 17 or no Maven here.
# Settings: KAFKA_VERSION, KAFKA_JVM_OPTS (added last, so it wins), KAFKA_PROPERTIES (a file of broker's properties,
# added last, so they win), KAFKA_START_SECONDS (60), JAVA_HOME, XDG_CACHE_HOME.
set -euo pipefail

version=${KAFKA_VERSION:-4.4.0}
slf4j_version=1.7.36 # the API that this Kafka is built against
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/kafka-$version
libs=$cache/libs
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

main() {
  case "${1:-} $#" in
    'fetch 1') fetch ;;
    'start 3') start "$2" "$3" ;;
    'stop 2') stop "$2" ;;
    'kill 2') crash "$2" ;;
    'restart 2') restart "$2" ;;
    'topics 2') topics "$2" ;;
    *) fail 'usage: kafka.sh fetch | start DIR PORT | stop DIR | kill DIR | restart DIR | topics DIR' 2 ;;
  esac
}

say() { printf 'kafka.sh: %s\n' "$*" >&2; }
fail() {
  say "$1"
  exit "${2:-1}"
}

# ---- the jars

need_java() {
  local major
  major=$("$java" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p') || true
  [[ ${major:-0} -ge 17 ]] || fail 'skipped: needs Java 17 and Maven (no Java 17 or newer was found)' 3
}

# kafka-tools depends on all of Kafka Connect, which the topic command does not use.
pom() {
  cat <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millrace</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>$version</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>$version</version>
      <exclusions>
        <exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion>
      </exclusions>
    </dependency>
    <!-- Kafka logs through slf4j and brings no binding of its own. -->
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>$slf4j_version</version>
    </dependency>
  </dependencies>
</project>
POM
}

# Two runs may fetch at the same moment, and a fetch may be cut short: the jars are copied to a folder of
# this run's own, which takes its final name in one step.
fetch() {
  need_java
  [[ ! -d $libs ]] || return 0
  command -v mvn >/dev/null || fail 'skipped: needs Java 17 and Maven (no mvn was found)' 3
  say "fetching Apache Kafka $version from Maven Central"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  pom >"$work/pom.xml"
  mvn --batch-mode --quiet --file "$work/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$work/libs" >"$work/maven.log" 2>&1 || {
    tail -n 20 "$work/maven.log" >&2
    fail "Maven could not bring org.apache.kafka:kafka_2.13:$version"
  }
  mv -T "$work/libs" "$libs" 2>/dev/null || [[ -d $libs ]] || fail "cannot write $libs"
}

# ---- the broker

# A test broker is alone and short-lived: replication is off, the internal topics are small, nothing is
# deleted by age, and a group does not wait for members that will not come. After a crash the broker may
# register again only when its old session has run out, so sessions are short.
properties() {
  local dir=$1 port=$2
  cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
broker.session.timeout.ms=9000
broker.heartbeat.interval.ms=500
log.dirs=$dir/data
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=4194304
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
PROPERTIES
  [[ -z ${KAFKA_PROPERTIES:-} ]] || cat "$KAFKA_PROPERTIES"
}

# A broker in a test lives for seconds: a compiler that only optimises a little starts it sooner.
kafka_java() {
  local options
  read -ra options <<<"${KAFKA_JVM_OPTS:-}"
  set -- -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true \
    -Dorg.slf4j.simpleLogger.defaultLogLevel="${log_level:-info}" \
    -Dorg.slf4j.simpleLogger.showDateTime=true \
    -Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd\'T\'HH:mm:ss.SSS \
    "${options[@]}" -cp "$libs/*" "$@"
  exec "$java" "$@"
}

folder() {
  [[ -f $1/server.properties ]] || fail "$1 holds no broker: start it with a port first" 2
  (cd "$1" && pwd)
}

# The process that DIR/kafka.pid names, if it is still that broker: numbers of processes are used again.
running() {
  local dir=$1 pid
  pid=$(cat "$dir/kafka.pid" 2>/dev/null) || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$dir/server.properties" || return 1
  echo "$pid"
}

start() {
  local dir=$1 port=$2
  [[ $port =~ ^[0-9]+$ && $port -gt 0 && $port -lt 65535 ]] || fail "not a port that has a next one: $port" 2
  fetch
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  ! running "$dir" >/dev/null || fail "the broker in $dir runs already"
  if answers "$port" || answers $((port + 1)); then fail "port $port or $((port + 1)) is taken"; fi
  properties "$dir" "$port" >"$dir/server.properties"
  [[ -f $dir/data/meta.properties ]] || format "$dir"
  launch "$dir" "$port"
}

# The cluster id is any 16 bytes in base64.
format() {
  local dir=$1
  (log_level=warn kafka_java kafka.tools.StorageTool format --cluster-id MillraceTestsKafka000A \
    --config "$dir/server.properties") >"$dir/kafka.log" 2>&1 </dev/null ||
    fail "could not format $dir/data: $(tail -n 5 "$dir/kafka.log")"
}

# The broker outlives this script and the terminal, in a session of its own; setsid keeps the number of the
# process. It answers from the line that it logs at the end of its start.
launch() {
  local dir=$1 port=$2 pid from waited=0
  from=$(($(wc -c 2>/dev/null <"$dir/kafka.log" || echo 0) + 1))
  export -f kafka_java
  java=$java libs=$libs setsid bash -c 'kafka_java "$@"' kafka kafka.Kafka "$dir/server.properties" \
    >>"$dir/kafka.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$dir/kafka.pid"
  until grep -q 'Kafka Server started' < <(tail -c "+$from" "$dir/kafka.log") && answers "$port"; do
    kill -0 "$pid" 2>/dev/null || give_up "$dir" "$from" 'the broker stopped while it started'
    ((waited++ < ${KAFKA_START_SECONDS:-60} * 10)) || give_up "$dir" "$from" 'the broker did not answer in time'
    sleep 0.1
  done
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

give_up() {
  local dir=$1 from=$2 why=$3
  crash "$dir"
  tail -c "+$from" "$dir/kafka.log" | grep -E 'ERROR|Error|Exception' | tail -n 5 >&2 || true
  fail "$why; see $dir/kafka.log"
}

stop() { halt "$1" TERM 30; }
crash() { halt "$1" KILL 10; }

halt() {
  local dir signal=$2 seconds=$3 pid tenths=0
  dir=$(folder "$1")
  if pid=$(running "$dir"); then
    kill "-$signal" "$pid"
    while running "$dir" >/dev/null; do
      ((tenths++ < seconds * 10)) || fail "process $pid, the broker in $dir, did not stop in $seconds seconds"
      sleep 0.1
    done
  fi
  rm -f "$dir/kafka.pid"
}

restart() {
  local dir
  dir=$(folder "$1")
  stop "$dir"
  start "$dir" "$(port_of "$dir")"
}

# Of properties that were added, listeners may be among them; the first line is this script's own.
port_of() { sed -nE 's/^advertised\.listeners=.*:([0-9]+)$/\1/p' "$1/server.properties" | head -n 1; }

topics() {
  local dir
  dir=$(folder "$1")
  (log_level=error kafka_java org.apache.kafka.tools.TopicCommand \
    --bootstrap-server "127.0.0.1:$(port_of "$dir")" --list) | sed '/^$/d'
}

main "$@"
