# The whole of Sallyport: relay, gateway, connector and tools are one command.
#
#   docker build -t sallyport .
#   docker run --rm sallyport demo --once
#   docker run -p 443:443 -v ./relay:/data sallyport relay run
#
# No key or configuration is in the image: they are mounted at /data, the working directory.

FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/sallyport \
 && /opt/sallyport/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /home/sallyport sallyport \
 && mkdir /data && chown sallyport /data
COPY --from=build /opt/sallyport /opt/sallyport
ENV PATH=/opt/sallyport/bin:$PATH PYTHONUNBUFFERED=1
USER sallyport
WORKDIR /data
# Docker lets a user without privileges listen on port 443 (net.ipv4.ip_unprivileged_port_start=0).
EXPOSE 443
ENTRYPOINT ["sallyport"]
CMD ["--help"]
