"""Everything that speaks to a Greengrass nucleus. The only package that imports `awsiot` and `awscrt`."""
