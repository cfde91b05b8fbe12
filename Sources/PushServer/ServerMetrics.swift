import EventStreams
import LatencyHeatmap
import PushPipeline
import Telemetry

/// What is computed when somebody asks: the ledgers, the log's state, what is degraded, the process.
enum ServerMetrics {
}
