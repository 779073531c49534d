module chatpulse/benches/peers/connect

go 1.23.4

require (
	github.com/redpanda-data/benthos/v4 v4.44.1
	github.com/redpanda-data/connect/v4 v4.49.1
)
