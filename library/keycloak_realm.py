#!/usr/bin/python
"""Ansible module: a Keycloak realm as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: keycloak_realm
short_description: Keep a Keycloak realm as declared
description:
  - Creates the realm and keeps these as declared - settings, realm roles, top groups, clients with their
    protocol mappers and scopes, attributes of users. Everything that is not named stays as it is.
  - Reads first, then writes only what differs. Check mode and diff show exactly what a run would write.
  - Every client gets the authorisation code flow with PKCE S256 and nothing else - no implicit flow, no direct grants,
    no service account, no full scope, no offline tokens.
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  settings:
    type: dict
    default: {}
    description:
      - Settings under the names of Keycloak's RealmRepresentation. The dictionary C(attributes) is merged.
      - C(smtpServer) is refused, because Keycloak gives its password back masked and it could not be compared.
  roles:
    type: list
    elements: dict
    default: []
    description: Realm roles.
    options:
      name: {type: str, required: true, description: Name.}
      description: {type: str, default: "", description: Shown in the console.}
      realm_management:
        type: list
        elements: str
        default: []
        description: The roles of the client realm-management that this role includes, exactly.
  second_factor_roles:
    type: list
    elements: str
    description:
      - Realm roles whose members log in with a one-time password (TOTP, RFC 6238) besides their password; C(*) means
        everyone. A user without one sets it up at the next login. All others are asked only if they have set one up.
      - Makes the browser flow of the realm, exactly. Without this option, the flow stays as it is.
  groups: {type: list, elements: str, default: [], description: Names of top groups that must exist.}
  clients:
    type: list
    elements: dict
    default: []
    description: Applications that log users in.
    options:
      client_id: {type: str, required: true, description: Client id.}
      name: {type: str, default: "", description: Shown in the console.}
      secret: {type: str, description: Makes the client confidential; without it the client is public.}
      redirect_uris: {type: list, elements: str, required: true, description: Exact addresses after login.}
      post_logout_redirect_uris: {type: list, elements: str, default: [], description: Addresses after logout.}
      web_origins: {type: list, elements: str, default: [], description: Origins whose pages may call Keycloak.}
      scopes: {type: list, elements: str, default: [basic, profile, web-origins], description: "Exact client scopes."}
      roles: {type: list, elements: str, default: [], description: "Exact realm roles that its tokens may carry."}
      mappers:
        type: list
        elements: dict
        default: []
        description: Protocol mappers, exactly.
        options:
          name: {type: str, required: true, description: Name.}
          type: {type: str, required: true, description: "Provider id, as in oidc-audience-mapper."}
          config: {type: dict, required: true, description: Configuration under Keycloak's names, all strings.}
  disabled_clients:
    type: list
    elements: str
    default: []
    description: Clients that Keycloak makes in every realm and that nobody shall use.
  user_attributes:
    type: list
    elements: dict
    default: []
    description: Attributes of users besides name and e-mail. Keycloak silently drops attributes that are not declared.
    options:
      name: {type: str, required: true, description: Name.}
      display_name: {type: str, required: true, description: Label in the console and on the account page.}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Apply the realm
  keycloak_realm:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    realm: imaging
    settings: {accessTokenLifespan: 300, bruteForceProtected: true}
    roles: [{name: physician, description: Views the studies of their clinics}, {name: admin, description: Everything}]
    second_factor_roles: [admin]
    groups: [clinics]
    clients:
      - client_id: ohif
        redirect_uris: [https://imaging.example.org/callback]
        web_origins: [https://imaging.example.org]
        roles: [physician]
"""

RETURN = r"""
realm:
  description: Name of the realm.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.clients import (  # type: ignore[import-untyped]
    MAPPER,
    clients_with_seen_secrets,
    find_client,
    need,
    plan_client,
)
from ansible.module_utils.imaging.flows import plan_browser_flow  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    Keycloak,
    KeycloakError,
    Plan,
    carry_out,
    differing,
    merged,
)

CLIENT = {
    "client_id": {"type": "str", "required": True},
    "name": {"type": "str", "default": ""},
    "secret": {"type": "str", "no_log": True},
    "redirect_uris": {"type": "list", "elements": "str", "required": True},
    "post_logout_redirect_uris": {"type": "list", "elements": "str", "default": []},
    "web_origins": {"type": "list", "elements": "str", "default": []},
    "scopes": {"type": "list", "elements": "str", "default": ["basic", "profile", "web-origins"]},
    "roles": {"type": "list", "elements": "str", "default": []},
    "mappers": {"type": "list", "elements": "dict", "default": [], "options": MAPPER},
}

ROLE = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str", "default": ""},
    "realm_management": {"type": "list", "elements": "str", "default": []},
}

USER_ATTRIBUTE = {
    "name": {"type": "str", "required": True},
    "display_name": {"type": "str", "required": True},
}


def plan_realm(keycloak: Keycloak, plan: Plan, settings: dict[str, Any]) -> None:
    """The realm itself. Attributes are strings and are written whole: Keycloak drops those that a PUT leaves out."""
    if "smtpServer" in settings:
        raise KeycloakError(
            "settings.smtpServer is not managed here: Keycloak gives its password back masked. Set mail in the console."
        )
    if "attributes" in settings:
        settings = settings | {"attributes": {key: str(value) for key, value in settings["attributes"].items()}}
    current = keycloak.get("")
    before, after = differing(settings, current or {})
    if current is None:

        def create() -> None:
            keycloak.create_realm()
            keycloak.put("", {key: merged(keycloak.get(""), settings)[key] for key in settings})

        plan.add("realm", None, settings, create)
    elif after:
        plan.add("realm", before, after, lambda: keycloak.put("", {key: merged(current, after)[key] for key in after}))


def plan_role(keycloak: Keycloak, plan: Plan, role: dict[str, Any]) -> None:
    """A realm role and the administrative roles it includes."""
    name = role["name"]
    current = keycloak.get(f"/roles/{name}")
    wanted = {"description": role["description"]}
    before, after = differing(wanted, current or {})
    if current is None:
        plan.add(f"role {name}", None, wanted, lambda: keycloak.create("/roles", {"name": name, **wanted}))
    elif after:
        plan.add(f"role {name}", before, after, lambda: keycloak.put(f"/roles/{name}", merged(current, after)))

    def management() -> str:
        return f"/clients/{find_client(keycloak, 'realm-management')['id']}/roles"

    included: set[str] = set()
    if current is not None and current["composite"]:
        client = find_client(keycloak, "realm-management")
        included = {one["name"] for one in keycloak.get(f"/roles/{name}/composites/clients/{client['id']}")}
    plan.members(
        f"role {name}: roles of realm-management",
        included,
        set(role["realm_management"]),
        lambda one: keycloak.create(f"/roles/{name}/composites", [need(keycloak, f"{management()}/{one}")]),
        lambda one: keycloak.delete(f"/roles/{name}/composites", [need(keycloak, f"{management()}/{one}")]),
    )


def plan_group(keycloak: Keycloak, plan: Plan, name: str) -> None:
    """A top group."""
    if keycloak.get(f"/group-by-path/{name}") is None:
        plan.add(f"group /{name}", None, {"name": name}, lambda: keycloak.create("/groups", {"name": name}))


def plan_disabled_client(keycloak: Keycloak, plan: Plan, name: str) -> None:
    """A client that comes with the realm: in a realm that is yet to be made, it will be there and enabled."""
    current = find_client(keycloak, name)

    def disable() -> None:
        client = find_client(keycloak, name)
        if client is None:
            raise KeycloakError(f"there is no client '{name}' to disable: Keycloak does not bring it along")
        keycloak.put(f"/clients/{client['id']}", merged(client, {"enabled": False}))

    if current is None or current["enabled"]:
        plan.add(f"client {name}", {"enabled": True}, {"enabled": False}, disable)


def client_representation(client: dict[str, Any]) -> dict[str, Any]:
    """The managed keys of Keycloak's ClientRepresentation: code flow with PKCE S256 only (RFC 7636, RFC 9700)."""
    representation = {
        "clientId": client["client_id"],
        "name": client["name"],
        "enabled": True,
        "protocol": "openid-connect",
        "publicClient": client["secret"] is None,
        "standardFlowEnabled": True,
        "implicitFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "serviceAccountsEnabled": False,
        "consentRequired": False,
        "fullScopeAllowed": False,
        "redirectUris": client["redirect_uris"],
        "webOrigins": client["web_origins"],
        "attributes": {
            "pkce.code.challenge.method": "S256",
            # An empty value would admit every redirect address; a hyphen admits none.
            "post.logout.redirect.uris": "##".join(client["post_logout_redirect_uris"]) or "-",
        },
    }
    if client["secret"] is not None:
        representation["secret"] = client["secret"]
    return representation


def plan_user_attributes(keycloak: Keycloak, plan: Plan, attributes: list[dict[str, Any]]) -> None:
    """Declared attributes join the user profile, which is one document: those that are there already stay."""
    profile = keycloak.get("/users/profile")
    present = {attribute["name"]: attribute for attribute in (profile or {}).get("attributes", [])}
    for attribute in attributes:
        name = attribute["name"]
        wanted = {
            "displayName": attribute["display_name"],
            "permissions": {"view": ["admin", "user"], "edit": ["admin"]},
            "multivalued": False,
        }
        before, after = differing(wanted, present.get(name, {}))

        def apply(name: str = name, wanted: dict[str, Any] = wanted) -> None:
            document = keycloak.get("/users/profile")
            known = {one["name"]: one for one in document["attributes"]}
            known[name] = merged(known.get(name, {"name": name}), wanted)
            keycloak.put("/users/profile", document | {"attributes": list(known.values())})

        if after:
            plan.add(f"user attribute {name}", before if name in present else None, after, apply)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "settings": {"type": "dict", "default": {}},
            "roles": {"type": "list", "elements": "dict", "default": [], "options": ROLE},
            "second_factor_roles": {"type": "list", "elements": "str"},
            "groups": {"type": "list", "elements": "str", "default": []},
            "clients": {"type": "list", "elements": "dict", "default": [], "options": CLIENT},
            "disabled_clients": {"type": "list", "elements": "str", "default": []},
            "user_attributes": {"type": "list", "elements": "dict", "default": [], "options": USER_ATTRIBUTE},
        },
        supports_check_mode=True,
    )
    keycloak = Keycloak.of(module)
    plan = Plan()
    try:
        plan_realm(keycloak, plan, module.params["settings"])
        for role in module.params["roles"]:
            plan_role(keycloak, plan, role)
        if module.params["second_factor_roles"] is not None:
            plan_browser_flow(keycloak, plan, module.params["second_factor_roles"])
        for group in module.params["groups"]:
            plan_group(keycloak, plan, group)
        for client in module.params["clients"]:
            plan_client(
                *(keycloak, plan, client_representation(client)),
                scopes=client["scopes"],
                mappers=client["mappers"],
                roles=client["roles"],
            )
        for name in module.params["disabled_clients"]:
            plan_disabled_client(keycloak, plan, name)
        plan_user_attributes(keycloak, plan, module.params["user_attributes"])
        if seen := clients_with_seen_secrets(keycloak):
            module.warn(
                "Until this release, whoever managed users could read the secrets of clinics' software: "
                f"{', '.join(seen)}. "
                "Give each another one, together with the people who run it: make new-client-secret CLIENT_ID=… "
                "(docs/ADMIN.md, A clinic's own software)."
            )
        carry_out(module, keycloak, plan, realm=module.params["realm"])
    except KeycloakError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
