/** The parts of an Envoy configuration that use the agent, ready to paste: a cluster and a TLS context. */
export function envoySnippet(workloadSocket: string): string {
  return `  clusters:
  - name: signet_agent
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: signet_agent
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { pipe: { path: ${workloadSocket} } } } }] }]

  common_tls_context:
    tls_certificate_sds_secret_configs:
    - name: default
      sds_config: &sds
        resource_api_version: V3
        api_config_source:
          api_type: GRPC
          transport_api_version: V3
          set_node_on_first_message_only: true
          grpc_services: [{ envoy_grpc: { cluster_name: signet_agent } }]
    combined_validation_context:
      default_validation_context:
        # Trust nobody until the agent has said whom: without this an empty answer would mean everybody.
        custom_validator_config:
          name: envoy.tls.cert_validator.spiffe
          typed_config: { "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig }
      validation_context_sds_secret_config: { name: ALL, sds_config: *sds }

Complete sidecars: envoy-configs/ in the repository.
`;
}
