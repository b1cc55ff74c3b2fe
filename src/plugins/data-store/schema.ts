/** The tables as kysely sees them, in the shape of the newest migration. Times are Unix seconds unless named `_ms`. */
export interface Schema {
  readonly schema_migrations: SchemaMigrationRow;
  readonly entries: EntryRow;
  readonly agents: AgentRow;
  readonly bundles: BundleRow;
  readonly bundle_authorities: BundleAuthorityRow;
  readonly bundle_jwt_authorities: BundleJwtAuthorityRow;
  readonly join_tokens: JoinTokenRow;
  readonly authorities: AuthorityRow;
  readonly key_claims: KeyClaimRow;
  readonly retired_keys: RetiredKeyRow;
  readonly server_settings: ServerSettingRow;
}

/** Lists of texts are JSON arrays; flags are 0 or 1. */
export interface EntryRow {
  readonly id: string;
  readonly spiffe_id: string;
  readonly parent_id: string;
  /** `type:value` each, in canonical order: equal sets are equal texts. */
  readonly selectors: string;
  readonly x509_svid_ttl_seconds: number;
  readonly jwt_svid_ttl_seconds: number;
  readonly federates_with: string;
  readonly dns_names: string;
  readonly admin: number;
  readonly downstream: number;
  readonly store_svid: number;
  readonly hint: string;
  readonly expires_at: number;
  readonly created_at: number;
  readonly revision: number;
  readonly disable_x509_svid_prefetch: number;
  readonly jwt_svid_include_jti: number;
}

export interface AgentRow {
  readonly id: string;
  readonly attestation_type: string;
  /** Empty = banned. */
  readonly serial: string;
  readonly new_serial: string;
  readonly expires_at: number;
  readonly new_expires_at: number;
  readonly selectors: string;
  readonly can_reattest: number;
  readonly agent_version: string;
}

export interface BundleRow {
  readonly trust_domain: string;
  /** Decimal, since SQLite's integers have a sign. */
  readonly sequence: string;
  readonly refresh_hint_seconds: number;
}

export interface BundleAuthorityRow {
  readonly trust_domain: string;
  readonly position: number;
  /** DER. */
  readonly certificate: Uint8Array;
  readonly tainted: number;
}

export interface BundleJwtAuthorityRow {
  readonly trust_domain: string;
  readonly position: number;
  readonly key_id: string;
  /** SPKI, DER. */
  readonly public_key: Uint8Array;
  /** 0 = not said. */
  readonly expires_at: number;
  readonly tainted: number;
}

export interface JoinTokenRow {
  readonly hash: string;
  readonly expires_at: number;
  readonly alias_id: string | null;
  readonly used_at: number | null;
  /** SHA-256 of the SPKI that redeemed it, lower-case hex. */
  readonly used_by: string | null;
  /** SPIFFE ID of the agent that it made. */
  readonly used_for: string | null;
  /** 1 once that agent has been recorded: from then on, no agent means an evicted one. */
  readonly attested: number;
}

export interface AuthorityRow {
  readonly id: string;
  readonly key_id: string;
  /** SPKI, DER. */
  readonly public_key: Uint8Array;
  /** DER. */
  readonly certificate: Uint8Array;
  readonly state: string;
  readonly prepared_at_ms: number;
  readonly activated_at_ms: number | null;
  readonly role: string;
  /** DER, one certificate after another; empty for a root. */
  readonly chain: Uint8Array;
  readonly upstream_key_id: string;
  readonly tainted_at_ms: number | null;
  readonly revoked_at_ms: number | null;
  readonly svids_end_by_ms: number | null;
}

export interface KeyClaimRow {
  readonly role: string;
  readonly key_id: string;
}

export interface RetiredKeyRow {
  readonly role: string;
  /** SPKI, DER. */
  readonly public_key: Uint8Array;
  readonly key_id: string;
  readonly retired_at_ms: number;
}

/** What this server has settled for itself, once and for all. */
export interface ServerSettingRow {
  readonly name: string;
  readonly value: string;
}

export interface SchemaMigrationRow {
  readonly version: number;
  readonly name: string;
  readonly applied_at_ms: number;
}
