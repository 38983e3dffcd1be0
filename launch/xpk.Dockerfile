# What xpk.sh runs. Only what git knows goes in:
#
#   git archive HEAD | docker build --file launch/xpk.Dockerfile --tag IMAGE -
#
# --build-arg EXTRA=cuda12 makes one for GPUs.
FROM python:3.12-slim
ARG EXTRA=tpu
WORKDIR /paradiff
COPY . .
RUN pip install --no-cache-dir --editable ".[$EXTRA]" gcsfs
