"""Infrastructure: one CloudFormation template, its validation without an AWS account, and its deployment.

Not here: building the image (`bentoml build`, `bentoml containerize`), batch jobs, Kubernetes.
"""
