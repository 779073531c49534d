"""The floor: Kafka to ClickHouse as one would write it in an afternoon. Ends with an error where something fails;
whoever runs it starts it again."""

import io
import json
import os
import urllib.request

import clickhouse_connect
from confluent_kafka import Consumer
from fastavro import parse_schema, schemaless_reader

BATCH, WAIT = 20_000, 0.4  # as chatpulse's batch_rows and batch_wait

schemas = {}


def schema(number):
    if number not in schemas:
        with urllib.request.urlopen(f"{os.environ['REGISTRY']}/schemas/ids/{number}") as answer:
            schemas[number] = parse_schema(json.loads(json.load(answer)["schema"]))
    return schemas[number]


def decode(payload):
    event = schemaless_reader(io.BytesIO(memoryview(payload)[5:]), schema(int.from_bytes(payload[1:5], "big")))
    replay_of = event.pop("replay_of") or {}
    event["replay_of_partition"] = replay_of.get("partition")
    event["replay_of_offset"] = replay_of.get("offset")
    return event


def main():
    consumer = Consumer({
        "bootstrap.servers": os.environ["BOOTSTRAP"],
        "group.id": os.environ["GROUP"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 2000,
    })
    consumer.subscribe([os.environ["TOPIC"]])
    client = clickhouse_connect.get_client(dsn=os.environ["CLICKHOUSE"])
    columns = os.environ["COLUMNS"].split(",")
    while True:
        messages = consumer.consume(BATCH, WAIT)
        failed = [message.error() for message in messages if message.error()]
        if failed:
            raise SystemExit(f"Kafka: {failed[0]}")
        if not messages:
            continue
        events = [decode(message.value()) for message in messages]
        data = [[event[column] for event in events] for column in columns]
        client.insert("events", data, column_names=columns, column_oriented=True)
        consumer.commit(asynchronous=False)


main()
