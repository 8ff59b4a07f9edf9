"""What an administrator of a Keycloak does, wherever it runs."""

import httpx2

SIGNED_ASSERTIONS = {"saml.assertion.signature": "true"}
UNSIGNED_REQUESTS = {"saml.client.signature": "false"}


def add_saml_client(administrator: httpx2.Client, realm: str, metadata: str, attributes: dict[str, str]) -> None:
    """Register a service provider by its metadata, as the administration console does it.

    Args:
        administrator: asks with an administrator's token.
        realm: the URL of the realm's administration.
        metadata: of the service provider.
        attributes: of the client, over those that Keycloak reads in the metadata.
    """
    roles = {"name": "roles", "protocol": "saml", "protocolMapper": "saml-role-list-mapper",
             "config": {"attribute.name": "Role", "attribute.nameformat": "Basic", "single": "true"}}  # fmt: skip
    name = {"name": "name", "protocol": "saml", "protocolMapper": "saml-user-attribute-mapper",
            "config": {"attribute.name": "username", "attribute.nameformat": "Basic",
                       "user.attribute": "username"}}  # fmt: skip
    read = administrator.post(f"{realm}/client-description-converter", content=metadata)
    assert read.status_code == 200, read.text
    client = {**read.json(), "protocolMappers": [roles, name], "defaultClientScopes": []}
    client["attributes"] |= attributes
    answer = administrator.post(f"{realm}/clients", json=client)
    assert answer.status_code == 201, answer.text
