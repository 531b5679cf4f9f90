# One image for every process: `quel up --no-workers` on one machine, `quel worker` on any number.
FROM python:3.13-slim
WORKDIR /srv/quel
COPY requirements.lock pyproject.toml README.md ./
COPY quel_dagster ./quel_dagster
RUN pip install --no-cache-dir --disable-pip-version-check --constraint requirements.lock . \
    && useradd --create-home --home-dir /var/lib/quel quel \
    && mkdir /objects && chown quel /objects
USER quel
ENV QUEL_HOME=/var/lib/quel
CMD ["quel", "worker"]
