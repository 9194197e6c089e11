"""What people look at: graphs, timelines and stories."""
