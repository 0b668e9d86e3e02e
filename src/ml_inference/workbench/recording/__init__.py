"""What a recording of a line shows, as one HTML file: the dashboard's pictures, without a dashboard."""
