"""ACTS: the gRPC servers of the network and its client. Every `await` of a payment is here."""
