"""The Kubernetes CSI driver: Identity, Controller and Node services over gRPC."""
