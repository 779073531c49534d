// Redpanda Connect with the parts under the Apache licence that carry Avro from Kafka to ClickHouse.
package main

import (
	"context"

	"github.com/redpanda-data/benthos/v4/public/service"

	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	_ "github.com/redpanda-data/connect/v4/public/components/confluent"
	_ "github.com/redpanda-data/connect/v4/public/components/kafka"
)

func main() { service.RunCLI(context.Background()) }
